//! Every input of the corpus, and every seed, through its target: what was fixed stays fixed.

use hv_fuzz::TARGETS;
use std::fs;
use std::path::Path;

#[test]
fn the_corpus_holds() {
    for target in TARGETS {
        if target.name == "usernet" && !hv_fuzz::usernet::can_run() {
            hv_skip::skip(
                "needs the right to make a network namespace, for usernet: root, or `unshare --map-root-user`",
            );
            continue;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            // What is seen last when an input hangs or panics.
            eprintln!("{}", path.display());
            (target.run)(&fs::read(&path).unwrap());
            count += 1;
        }
        (target.seeds)().iter().for_each(|seed| (target.run)(seed));
        assert!(
            count > 0,
            "{}: nothing is in it; fill it with `cargo run --example seeds`",
            folder.display()
        );
    }
}
