//! The public interfaces of `hv` and `hv-guest` are those of the listings in `tests/golden`, so that a change shows in a review.
//!
//! What is public, and where, is what rustdoc says: its pages are read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A page of rustdoc without its markup: tags go, entities become characters, white space becomes one space.
fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        // Neither part of the code: how many variants there are to be shown, and notes in the margin.
        let skipped = [("summary", "</summary>"), ("a href=\"#\" class=\"tooltip\"", "</a>")];
        let end = skipped.iter().find(|(start, _)| tag.starts_with(start)).map_or(">", |(_, end)| end);
        rest = tag.split_once(end).expect("tags end").1;
    }
    text += rest;
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, character);
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // A list that was broken into lines.
    text.replace("( ", "(").replace(", )", ")")
}

/// What stands between two marks, each time.
fn between<'a>(html: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    html.split(start).skip(1).map(move |rest| rest.split(end).next().unwrap_or_default())
}

/// The section of a page that begins with this heading, without those below.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("<h2 id=\"{id}\"")).unwrap_or(page.len());
    let section = &page[start..];
    let end = section.match_indices("<h2 id=").nth(1).map_or(section.len(), |(at, _)| at);
    &section[..end]
}

/// An item: its declaration, its own functions and constants, and the traits that it has by itself.
fn item(page: &str) -> Vec<String> {
    let (heading, body) = page
        .split_once("<pre class=\"rust item-decl\"><code>")
        .expect("a declaration: the pages of this rustdoc have another form");
    // What the standard library has, each version of Rust may add to.
    let source = between(heading, "<a class=\"src\" href=\"", "\"").next().unwrap_or_default();
    if source.starts_with("https://doc.rust-lang.org/") {
        let file = between(source, "/src/", ".html").next().unwrap_or_default();
        return vec![format!("of the standard library: {file}")];
    }
    let mut lines = vec![plain(body.split("</code></pre>").next().unwrap_or_default())];
    lines.extend(between(section(page, "implementations"), "<h4 class=\"code-header\">", "</h4>").map(plain));
    let mut traits: Vec<_> =
        between(section(page, "trait-implementations"), "<h3 class=\"code-header\">", "</h3>")
            .map(plain)
            .collect();
    // What every derived comparison brings along, without a meaning of its own.
    traits.retain(|line| !line.contains("StructuralPartialEq"));
    traits.sort();
    lines.extend(traits);
    lines
}

/// Adds everything public of a crate, by the address of its page: `path::Name (kind)`, and its lines.
fn list(folder: &Path, name: &str, listing: &mut BTreeMap<String, Vec<String>>) {
    let folder = folder.join(name);
    let read = |page: &str| {
        fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{name}/{page}: {error}"))
    };
    let mut modules = vec![String::new()];
    let all = read("all.html");
    for link in between(&all, "<li><a href=\"", "\"") {
        let (module, file) = link.rsplit_once('/').map_or(("", link), |(module, file)| (module, file));
        let Some((kind, rest)) = file.split_once('.') else { continue };
        let item_name = rest.trim_end_matches(".html");
        modules.push(module.to_owned());
        let path =
            [name, module, item_name].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>();
        listing.insert(format!("{} ({kind})", path.join("::").replace('/', "::")), item(&read(link)));
    }
    modules.sort();
    modules.dedup();
    for module in modules {
        let page = read(format!("{module}/index.html").trim_start_matches('/'));
        let reexports: Vec<_> =
            between(&page, "<dt id=\"reexport.", "</dt>").map(|entry| plain(&format!("<{entry}"))).collect();
        if !reexports.is_empty() {
            let path = format!("{name}::{module}").replace('/', "::");
            listing.insert(format!("{} (re-exports)", path.trim_end_matches(':')), reexports);
        }
    }
}

/// Compares the public items of crates of a workspace with a listing.
#[track_caller]
fn compare(workspace: &str, crates: &[&str], file: &str) {
    let Some(pages) = hv_tests::documentation(workspace) else { return };
    let mut listing = BTreeMap::new();
    for name in crates {
        list(&pages, name, &mut listing);
    }
    assert!(listing.len() > 50, "the whole of {crates:?}: {} items", listing.len());
    let mut text = String::new();
    for (path, lines) in listing {
        text += &format!("{path}\n");
        for line in lines {
            text += &format!("    {line}\n");
        }
    }
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("HV_BLESS").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    let agreed = fs::read_to_string(&golden).unwrap_or_default();
    let missing = |from: &str, of: &str, sign: &str| {
        let lines: Vec<_> = of.lines().collect();
        from.lines()
            .filter(|line| !lines.contains(line))
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    assert!(
        agreed == text,
        "the public interface has changed; if it is to, `HV_BLESS=1 cargo test -p hv-tests --test api` writes \
         tests/golden/{file} again:\n{}{}",
        missing(&agreed, &text, "-"),
        missing(&text, &agreed, "+")
    );
}

#[test]
fn the_interface_of_hv_is_the_one_that_was_agreed_on() {
    compare(".", &["hv", "hv_jail"], "api-hv.txt");
}

#[test]
fn the_interface_of_the_guest_sdk_is_the_one_that_was_agreed_on() {
    compare("guest-sdk", &["hv_guest"], "api-hv-guest.txt");
}

#[test]
fn pages_are_read_as_code() {
    let page = "<pre class=\"rust item-decl\"><code>pub enum E {<details><summary><span>Show 2 variants</span></summary>\n    A(<a \
                href=\"x\">u8</a>),\n    B,\n</details>}</code></pre><h2 id=\"implementations\"></h2><h4 class=\"code-header\">pub \
                fn <a>f</a>(&amp;self) -&gt; Vec&lt;u8&gt; <a href=\"#\" class=\"tooltip\">i</a></h4><h2 \
                id=\"trait-implementations\"></h2><h3 class=\"code-header\">impl Debug for E</h3><h4 class=\"code-header\">fn \
                fmt()</h4><h2 id=\"blanket-implementations\"></h2><h3 class=\"code-header\">impl From for E</h3>";
    assert_eq!(item(page), ["pub enum E { A(u8), B, }", "pub fn f(&self) -> Vec<u8>", "impl Debug for E"]);
}
