//! The commands and configurations of the documents and of `--help`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A console block, or the examples of a `--help`.
#[derive(Debug)]
pub(crate) struct Block {
    /// Where it stands: a file of the workspace, or `hv COMMAND --help`.
    pub(crate) place: String,
    /// The commands, each with the output that the document shows.
    pub(crate) commands: Vec<Shown>,
}

/// A command as it stands in a document.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The line, without prompt and comment.
    pub(crate) line: String,
    /// What the document shows below it.
    pub(crate) output: Vec<String>,
}

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the workspace")
}

/// README.md and docs/*.md.
pub(crate) fn documents() -> Vec<PathBuf> {
    let folder = fs::read_dir(workspace().join("docs")).expect("there are documents");
    let mut files: Vec<_> = folder
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .chain([workspace().join("README.md")])
        .collect();
    files.sort();
    files
}

/// The fenced blocks of a document in a language.
pub(crate) fn fenced(document: &Path, language: &str) -> Vec<String> {
    let text = fs::read_to_string(document).expect("a document is text");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // A block of another language is skipped to its end.
        let Some(found) = line.strip_prefix("```") else { continue };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        if found == language {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// A line without the comment at its end.
fn without_comment(line: &str) -> String {
    line.split("  #").next().unwrap_or(line).trim().to_owned()
}

fn name(document: &Path) -> String {
    document.strip_prefix(workspace()).expect("a file of the workspace").display().to_string()
}

/// All console blocks of the documents.
pub(crate) fn console() -> Vec<Block> {
    let mut blocks = Vec::new();
    for document in documents() {
        for text in fenced(&document, "console") {
            let mut commands: Vec<Shown> = Vec::new();
            for line in text.lines() {
                match (line.strip_prefix("$ "), commands.last_mut()) {
                    (Some(line), _) => {
                        commands.push(Shown { line: without_comment(line), output: Vec::new() });
                    }
                    (None, Some(command)) => command.output.push(line.to_owned()),
                    (None, None) => panic!("{}: a block begins with output: {line}", document.display()),
                }
            }
            blocks.push(Block { place: name(&document), commands });
        }
    }
    blocks
}

/// The commands of the table of guests in README.md.
pub(crate) fn table() -> Block {
    let text = fs::read_to_string(workspace().join("README.md")).expect("there is a README");
    let commands = text.lines().filter(|line| line.starts_with("| `"));
    let commands = commands.filter_map(|line| line.rsplit("| `").next()?.strip_suffix("` |"));
    let commands = commands.filter(|command| command.starts_with("hv "));
    let commands: Vec<_> = commands.map(|line| Shown { line: line.to_owned(), output: Vec::new() }).collect();
    assert!(commands.len() > 10, "the table of guests is elsewhere: {commands:?}");
    Block { place: "README.md".into(), commands }
}

/// The examples of all commands' `--help`.
pub(crate) fn help(hv: &Path) -> Vec<Block> {
    let printed = |arguments: &[&str]| {
        let output = Command::new(hv).args(arguments).output().expect("hv runs");
        assert!(output.status.success(), "hv {arguments:?}");
        String::from_utf8(output.stdout).expect("help is text")
    };
    let overview = printed(&["--help"]);
    let commands = overview.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut blocks = Vec::new();
    for command in commands.filter_map(|line| line.split_whitespace().next()) {
        if command == "help" {
            continue;
        }
        let text = printed(&[command, "--help"]);
        let examples = text.lines().filter_map(|line| {
            let line = line.strip_prefix("  ").filter(|line| line.starts_with("hv "));
            // What follows after several spaces explains it.
            line.map(|line| line.split("   ").next().unwrap_or(line).trim().to_owned())
        });
        let sentence = text.lines().next().and_then(|line| line.split("for example: ").nth(1));
        let commands = examples.chain(sentence.map(str::to_owned));
        let commands = commands.map(|line| Shown { line, output: Vec::new() }).collect();
        blocks.push(Block { place: format!("hv {command} --help"), commands });
    }
    assert!(blocks.iter().map(|block| block.commands.len()).sum::<usize>() > 15, "{blocks:?}");
    blocks
}
