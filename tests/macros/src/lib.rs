//! The attribute of tests that run guests: a test for each platform, from one function.
#![forbid(unsafe_code)]

use proc_macro::{TokenStream, TokenTree};

/// The platforms: names of tests, and variants of `hv_tests::Platform`.
const PLATFORMS: [(&str, &str); 2] = [("kvm", "Kvm"), ("process", "Process")];

/// Makes tests of a function that takes an `hv_tests::Platform`: `NAME::kvm` and `NAME::process`.
///
/// `#[guest_test(kvm, "why")]` makes the one of that platform only.
#[proc_macro_attribute]
pub fn guest_test(arguments: TokenStream, function: TokenStream) -> TokenStream {
    let (function, of_tests) = divided(function);
    let made =
        only(arguments).and_then(|only| Ok(tests(name(&function)?, only.as_deref(), &of_tests.to_string())));
    match made {
        Ok(tests) => function.into_iter().chain(parsed(&tests)).collect(),
        Err(message) => parsed(&format!("::core::compile_error!({message:?});")),
    }
}

fn parsed(code: &str) -> TokenStream {
    code.parse().expect("it is made from names and literals")
}

/// The only platform, if there is one; its reason has to follow.
fn only(arguments: TokenStream) -> Result<Option<String>, String> {
    let arguments: Vec<TokenTree> = arguments.into_iter().collect();
    match &arguments[..] {
        [] => Ok(None),
        [TokenTree::Ident(platform), TokenTree::Punct(comma), TokenTree::Literal(reason)]
            if comma.as_char() == ',' && is_text(&reason.to_string()) =>
        {
            let platform = platform.to_string();
            let is_known = PLATFORMS.iter().any(|(name, _)| *name == platform);
            if is_known { Ok(Some(platform)) } else { Err(format!("no platform of tests: {platform}")) }
        }
        _ => Err("write #[guest_test], or #[guest_test(PLATFORM, \"why not on the others\")]".into()),
    }
}

/// Whether a literal is a string that says something.
fn is_text(literal: &str) -> bool {
    literal.len() > 2 && literal.starts_with('"')
}

/// The function without the attributes that belong to tests, and those.
fn divided(function: TokenStream) -> (TokenStream, TokenStream) {
    let (mut rest, mut of_tests) = (TokenStream::new(), TokenStream::new());
    let mut tokens = function.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let is_mark = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '#');
        let attribute = tokens.next_if(|next| is_mark && is_of_tests(next));
        let to = if attribute.is_some() { &mut of_tests } else { &mut rest };
        to.extend([token]);
        to.extend(attribute);
    }
    (rest, of_tests)
}

/// Whether what is behind a `#` means something for a test only.
fn is_of_tests(attribute: &TokenTree) -> bool {
    let TokenTree::Group(group) = attribute else { return false };
    let name = group.stream().into_iter().next().map(|name| name.to_string());
    matches!(name.as_deref(), Some("ignore" | "should_panic"))
}

/// The name of the function.
fn name(function: &TokenStream) -> Result<String, String> {
    let mut tokens = function.clone().into_iter();
    let found = tokens.any(|token| matches!(token, TokenTree::Ident(word) if word.to_string() == "fn"));
    match tokens.next() {
        Some(TokenTree::Ident(name)) if found => Ok(name.to_string()),
        _ => Err("#[guest_test] is for functions".into()),
    }
}

/// A module of the function's name, with a test for each platform.
fn tests(name: String, only: Option<&str>, attributes: &str) -> String {
    let wanted = PLATFORMS.iter().filter(|(test, _)| only.is_none_or(|only| only == *test));
    let tests = wanted.map(|(test, platform)| {
        format!(
            "#[test] {attributes} fn {test}() {{ ::hv_tests::run_on(::hv_tests::Platform::{platform}, super::{name}) }}"
        )
    });
    format!("mod {name} {{ {} }}", tests.collect::<String>())
}
