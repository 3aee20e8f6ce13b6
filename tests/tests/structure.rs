//! The modules of hv import what the table in `docs/architecture.md` says, and nothing from above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of modules, with those that each imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Crates of `hv/` whose modules stand in the table one by one; each of the others is one module.
const LAYERED: [&str; 2] = ["core", "host"];

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

/// Every module of hv with its crate and what it imports.
fn found() -> (BTreeMap<String, String>, Imports) {
    let (mut crates, mut modules) = (BTreeMap::new(), Imports::new());
    for entry in std::fs::read_dir(root().join("hv")).unwrap().map(Result::unwrap) {
        let source = entry.path().join("src");
        let package = entry.file_name().into_string().unwrap();
        // `hv` itself is a facade, whose sources are beside the crates.
        if !source.is_dir() {
            continue;
        }
        let mut folders = vec![source.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                let name = path.strip_prefix(&source).unwrap().with_extension("");
                let name = name.to_str().unwrap();
                if name.contains("tests") {
                    continue;
                }
                let layered = LAYERED.contains(&package.as_str());
                let module = if layered { name.split('/').next().unwrap() } else { &package };
                if path.is_dir() {
                    folders.push(path);
                } else if !(layered && name == "lib") {
                    let mut used = imports(&package, &std::fs::read_to_string(path).unwrap());
                    used.retain(|name| name != module);
                    crates.insert(module.to_owned(), package.clone());
                    modules.entry(module.to_owned()).or_default().extend(used);
                }
            }
        }
    }
    (crates, modules)
}

/// A row of the table.
struct Row {
    layer: u32,
    package: String,
    imports: BTreeSet<String>,
}

fn table() -> BTreeMap<String, Row> {
    let document = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, rest) = document
        .split_once("| layer | crate | module | what it does | imports |\n|---:|---|---|---|---|\n")
        .unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let row = |row: &str| {
        let cells: Vec<_> = row.trim_matches('|').split(" |").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "five cells: {row}");
        let name = |cell: &str| quoted(cell).pop_first().expect("a name");
        let layer = cells[0].parse().expect("a number");
        (name(cells[2]), Row { layer, package: name(cells[1]), imports: quoted(cells[4]) })
    };
    rest.lines().take_while(|line| line.starts_with('|')).map(row).collect()
}

#[test]
fn modules_import_what_the_document_says_from_layers_below() {
    let table = table();
    let (crates, found) = found();
    assert!(found.len() > 20, "all of hv");
    assert_eq!(table.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (module, imports) in found {
        let row = &table[&module];
        assert_eq!(row.package, crates[&module], "the crate of {module}");
        assert_eq!(row.imports, imports, "{module}: the table, and the code");
        for import in imports {
            assert!(table[&import].layer < row.layer, "{module} imports {import}, which is not below it");
        }
    }
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
