//! The rooms of the host crate import what the table in `docs/architecture.md` says, and nothing from above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

type Rooms = BTreeMap<String, BTreeSet<String>>;

/// The names behind `crate::` in a source without its tests and comments, as far as they are rooms.
fn imports(text: &str) -> BTreeSet<String> {
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
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.extend([word(rest)]),
            Some(list) => {
                let mut depth = 1;
                let mut start = true;
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
            }
        }
    }
    found.remove("");
    found
}

/// Rooms of `hv/src` with what they import.
fn found() -> Rooms {
    let source = root().join("hv/src");
    let mut rooms = Rooms::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(&source).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            // The stub is another program.
            if name.contains("tests") || name == "platform/process/stub" {
                continue;
            }
            let room = name.split('/').next().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if Path::new(name) != Path::new("lib") && name != "main" {
                let mut used = imports(&std::fs::read_to_string(path).unwrap());
                used.remove(&room);
                rooms.entry(room).or_default().extend(used);
            }
        }
    }
    rooms
}

/// Rooms of the table, with their floors and what they import.
fn told() -> (BTreeMap<String, u32>, Rooms) {
    let document = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, rest) =
        document.split_once("| floor | room | what it does | imports |\n|---:|---|---|---|\n").unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let (mut floors, mut rooms) = (BTreeMap::new(), Rooms::new());
    for row in rest.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" |").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "four cells: {row}");
        let room = quoted(cells[1]).pop_first().expect("a room");
        floors.insert(room.clone(), cells[0].parse().expect("a number"));
        rooms.insert(room, quoted(cells[3]));
    }
    (floors, rooms)
}

#[test]
fn rooms_import_what_the_document_says_from_floors_below() {
    let (floors, told) = told();
    for (room, imports) in found() {
        assert_eq!(told.get(&room), Some(&imports), "{room}: the table, and the code");
        for import in imports {
            assert!(floors[&import] < floors[&room], "{room} imports {import}, which is not below it");
        }
    }
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let text = "use crate::one::Thing;\nuse crate::{two, three::{four, five}, six};\nfn f() { crate::seven::g() }\n\
                // crate::eight\n#[cfg(test)]\nmod more;\npub(in crate::nine) use crate::ten;\n\
                #[cfg(test)]\nmod tests {\n    use crate::eleven;\n}\n";
    let expected = ["nine", "one", "seven", "six", "ten", "three", "two"];
    assert_eq!(imports(text), expected.map(str::to_owned).into());
}
