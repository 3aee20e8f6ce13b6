//! The modules of hv and of the guest SDK import what the tables in `docs/architecture.md` say, and nothing from above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of modules, with those that each imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Crates whose modules stand in a table one by one: two of `hv/`, where each of the others is one module, and the
/// guest SDK.
const LAYERED: [&str; 3] = ["core", "host", "sdk"];

/// The modules that a source of this crate imports, its tests and comments left out: names behind `crate::` and behind
/// the names of other crates of hv.
fn imports(of: &str, text: &str) -> BTreeSet<String> {
    let lines: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut code = String::new();
    let mut lines = lines.into_iter();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // A module of tests ends the file, or is another one.
            match lines.next() {
                Some(next) if next.trim_end().ends_with('{') => break,
                _ => continue,
            }
        }
        code.push_str(line);
        code.push('\n');
    }
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices("crate::").chain(code.match_indices("hv_")) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at..];
        let (name, rest) =
            rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()));
        let from = if start == "crate::" { of } else { name.trim_start_matches("hv_") };
        if LAYERED.contains(&from) {
            found.extend(first_names(rest.strip_prefix("::").unwrap_or_default()));
        } else if start != "crate::" && root().join("hv").join(from).is_dir() {
            found.insert(from.to_owned());
        }
    }
    found
}

/// The names that stand first in what follows a `::`: one, or those of a list in braces.
fn first_names(path: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = path.strip_prefix('{') else { return [word(path)].into() };
    let mut found = BTreeSet::new();
    let (mut depth, mut start) = (1, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && start && c.is_alphabetic() {
            found.insert(word(&list[at..]));
            start = false;
        }
        start |= depth == 1 && c == ',';
    }
    found
}

/// The modules of the crate `package` in the folder `source`, with what each imports.
fn modules(package: &str, source: &Path) -> Imports {
    let mut modules = Imports::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(source).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            if name.contains("tests") {
                continue;
            }
            let layered = LAYERED.contains(&package);
            let module = if layered { name.split('/').next().unwrap() } else { package };
            if path.is_dir() {
                folders.push(path);
            } else if !(layered && name == "lib") {
                let mut used = imports(package, &std::fs::read_to_string(path).unwrap());
                used.retain(|name| name != module);
                modules.entry(module.to_owned()).or_default().extend(used);
            }
        }
    }
    modules
}

/// Every module of hv with its crate and what it imports.
fn found() -> (BTreeMap<String, String>, Imports) {
    let (mut crates, mut all) = (BTreeMap::new(), Imports::new());
    for entry in std::fs::read_dir(root().join("hv")).unwrap().map(Result::unwrap) {
        let source = entry.path().join("src");
        let package = entry.file_name().into_string().unwrap();
        // `hv` itself is a facade, whose sources are beside the crates.
        if source.is_dir() {
            for (module, imports) in modules(&package, &source) {
                crates.insert(module.clone(), package.clone());
                all.entry(module).or_default().extend(imports);
            }
        }
    }
    (crates, all)
}

/// A row of a table.
struct Row {
    layer: u32,
    /// The crate, where the table is one of several.
    package: Option<String>,
    imports: BTreeSet<String>,
}

/// The table with these columns, by modules.
fn table(columns: &str) -> BTreeMap<String, Row> {
    let document = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, rest) = document.split_once(columns).expect(columns);
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let name = |cell: &str| quoted(cell).pop_first().expect("a name");
    let row = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').split(" |").map(str::trim).collect();
        let (layer, package, module, imports) = match cells[..] {
            [layer, package, module, _, imports] => (layer, Some(name(package)), module, imports),
            [layer, module, _, imports] => (layer, None, module, imports),
            _ => panic!("four or five cells: {row}"),
        };
        (name(module), Row { layer: layer.parse().expect("a number"), package, imports: quoted(imports) })
    };
    rest.lines().skip(2).take_while(|line| line.starts_with('|')).map(row).collect()
}

/// Compares what the modules import with the table.
fn compare(found: Imports, table: &BTreeMap<String, Row>) {
    assert!(found.len() > 20, "all of them");
    assert_eq!(table.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (module, imports) in found {
        let row = &table[&module];
        assert_eq!(row.imports, imports, "{module}: the table, and the code");
        for import in imports {
            assert!(table[&import].layer < row.layer, "{module} imports {import}, which is not below it");
        }
    }
}

#[test]
fn modules_import_what_the_document_says_from_layers_below() {
    let table = table("| layer | crate | module | what it does | imports |");
    let (crates, found) = found();
    for (module, package) in crates {
        assert_eq!(
            table.get(&module).and_then(|row| row.package.clone()),
            Some(package),
            "the crate of {module}"
        );
    }
    compare(found, &table);
}

#[test]
fn the_sdk_imports_what_the_document_says_from_layers_below() {
    let table = table("| layer | module | what it does | imports |");
    compare(modules("sdk", &root().join("guest-sdk/sdk/src")), &table);
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let text = "use crate::one::Thing;\nuse crate::{two, three::{four, five}, six};\nfn f() { crate::seven::g() }\n\
                // crate::eight\n#[cfg(test)]\nmod more;\npub(in crate::nine) use crate::ten;\nuse hv_host::twelve;\n\
                use hv_jail as jail;\nuse hv_abi::host::x;\n#[cfg(test)]\nmod tests {\n    use crate::eleven;\n}\n";
    let expected = ["jail", "nine", "one", "seven", "six", "ten", "three", "twelve", "two"];
    assert_eq!(imports("core", text), expected.map(str::to_owned).into());
    assert_eq!(imports("cli", text), ["jail", "twelve"].map(str::to_owned).into());
}

#[test]
fn a_program_that_runs_guests_compiles_no_http_and_no_command_line() {
    let tree = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(["tree", "--locked", "--offline", "--package", "hv", "--no-default-features"])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let names: BTreeSet<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("hv-core") && names.contains("kvm-ioctls"), "{names:?}");
    for name in ["tokio", "hyper", "http", "prometheus", "toml", "clap", "hv-serve", "hv-bench", "hv-cli"] {
        assert!(!names.contains(name), "{name}");
    }
}
