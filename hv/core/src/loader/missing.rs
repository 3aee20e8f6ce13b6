//! Which C functions an image lacks, and which crate needs them.
//!
//! A crate that declares `libc` has the linker take what the SDK does not define
//! from the host's libc. The program links, names the library, and cannot run
//! as a guest. Its dynamic symbols say what is missing, the code that uses their
//! entries of the global offset table says where, and debug information whose that is.
//!
//! The image is refused already: this module only improves the message, so what is malformed or too large is
//! left out. The work is bounded by the constants below.

use super::ImageError;
use crate::crash::{Budget, Frame, SymbolCache, Symbols};
use hv_host::escape::escape;
use object::elf;
use object::read::elf::ElfFile64;
use object::{
    Object, ObjectSegment, ObjectSymbol, ObjectSymbolTable, RelocationFlags, RelocationTarget, SegmentFlags,
};
use std::collections::BTreeMap;
use std::fmt;

/// Most functions that are named; the rest is counted.
const NAMED: usize = 4;

/// Most dynamic symbols and relocations that are looked at.
const MAX_SYMBOLS: usize = 1 << 16;

/// Most bytes of code that are searched for a use.
const MAX_CODE: usize = 32 << 20;

/// Longest name of a function that is shown.
const MAX_NAME: usize = 80;

/// A C function that an image expects from a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFunction {
    /// Its name.
    pub symbol: String,
    /// Who uses it, where that can be found out.
    pub user: Option<FunctionUser>,
}

/// Code that uses a C function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionUser {
    /// Name of the crate, with its version where the path of its source has that.
    pub crate_name: String,
    /// Name of the Rust function.
    pub function: String,
}

impl fmt::Display for MissingFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", escape(&self.symbol))?;
        match &self.user {
            Some(FunctionUser { crate_name, function }) => {
                write!(f, " for crate {} ({})", escape(crate_name), escape(function))
            }
            None => Ok(()),
        }
    }
}

/// What is missing, as the middle of a sentence.
pub(super) fn list(missing: &[MissingFunction], more: usize) -> String {
    let names: Vec<_> = missing.iter().map(MissingFunction::to_string).collect();
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

/// The same error with what is missing, if the whole file says it.
pub(super) fn explain(error: ImageError, file: impl FnOnce() -> Vec<u8>) -> ImageError {
    if error != (ImageError::Dynamic { what: "DT_NEEDED" }) {
        return error;
    }
    match missing(&file()) {
        Some((missing, more)) => ImageError::Missing { missing, more },
        None => error,
    }
}

/// The first functions in the order of their names, and how many more there are.
fn missing(bytes: &[u8]) -> Option<(Vec<MissingFunction>, usize)> {
    let file = ElfFile64::<object::LittleEndian>::parse(bytes).ok()?;
    let table = file.dynamic_symbol_table()?;
    let mut names = BTreeMap::new();
    for symbol in table.symbols().take(MAX_SYMBOLS).filter(|symbol| symbol.is_undefined()) {
        match symbol.name() {
            Ok(name) if !name.is_empty() => {
                names.insert(name.chars().take(MAX_NAME).collect::<String>(), symbol.index())
            }
            _ => continue,
        };
    }
    let more = names.len().saturating_sub(NAMED);
    let named: Vec<_> = names.into_iter().take(NAMED).collect();
    // Where the loader of shared libraries would put the functions' addresses.
    let mut slots = BTreeMap::new();
    for (address, relocation) in file.dynamic_relocations()?.take(MAX_SYMBOLS) {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
        let at = named.iter().position(|(_, symbol)| *symbol == index);
        if let (elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT, Some(at)) = (r_type, at) {
            slots.insert(address, at);
        }
    }
    let uses = uses(&file, &slots, named.len());
    let known = SymbolCache::default();
    let symbols = Symbols::new(bytes, 0, &known);
    let missing = named.into_iter().zip(uses).map(|((symbol, _), site)| {
        let user =
            site.and_then(|site| symbols.lookup(site, &mut Budget::default()).frames.iter().find_map(user));
        MissingFunction { symbol, user }
    });
    let missing: Vec<_> = missing.collect();
    (!missing.is_empty()).then_some((missing, more))
}

/// For each of `count` functions, the address of code that refers to its slot: any four bytes
/// that are, from the instruction that they would end, the distance to it.
fn uses(
    file: &ElfFile64<'_, object::LittleEndian>,
    slots: &BTreeMap<u64, usize>,
    count: usize,
) -> Vec<Option<u64>> {
    let mut found = vec![None; count];
    let (Some((&first, _)), Some((&last, _))) = (slots.first_key_value(), slots.last_key_value()) else {
        return found;
    };
    let executable =
        |flags| matches!(flags, SegmentFlags::Elf { p_flags, .. } if p_flags.0 & elf::PF_X.0 != 0);
    let mut budget = MAX_CODE;
    for segment in file.segments().filter(|segment| executable(segment.flags())) {
        let Ok(code) = segment.data() else { continue };
        let code = &code[..code.len().min(budget)];
        budget -= code.len();
        for (at, bytes) in code.windows(4).enumerate() {
            let distance = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let site = segment.address().wrapping_add(at as u64);
            let target = site.wrapping_add(4).wrapping_add_signed(distance.into());
            if (first..=last).contains(&target)
                && let Some(&function) = slots.get(&target)
            {
                found[function].get_or_insert(site);
            }
        }
    }
    found
}

/// Whose code a frame is; `None` for what stands between a crate and the function that it means to call.
fn user(frame: &Frame) -> Option<FunctionUser> {
    let function = frame.function.clone()?;
    let path = function.trim_start_matches(['<', '&', '*', ' ']).split("::").next();
    let by_name = path.filter(|name| function.contains("::") && is_name(name)).map(str::to_owned);
    let crate_name = frame.file.as_deref().and_then(crate_of_file).or(by_name)?;
    let between = ["core", "alloc", "libc"];
    let bare = crate_name.split(' ').next().unwrap_or_default();
    (!between.contains(&bare)).then_some(FunctionUser { crate_name, function })
}

/// The crate that a source file belongs to: the folder `name-1.2.3` where cargo unpacked it, or else the
/// folder around its `src`.
fn crate_of_file(path: &str) -> Option<String> {
    if let Some((_, library)) = path.strip_prefix("/rustc/").and_then(|path| path.split_once("/library/")) {
        return library.split('/').next().map(str::to_owned);
    }
    if let Some((_, unpacked)) = path.split_once("/git/checkouts/") {
        // With a hash behind the name.
        let (name, _) = unpacked.split('/').next()?.rsplit_once('-')?;
        return Some(name.to_owned());
    }
    let name = match path.split_once("/registry/src/") {
        Some((_, registry)) => registry.split('/').nth(1)?,
        None => path.rsplit_once("/src/")?.0.rsplit('/').next()?,
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_version = |text: &str| text.split_once('.').is_some_and(|(major, _)| is_number(major));
    match name.match_indices('-').find(|(at, _)| is_version(&name[at + 1..])) {
        Some((at, _)) => Some(format!("{} {}", &name[..at], &name[at + 1..])),
        None => Some(name.to_owned()),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_named_by_their_folders() {
        for (path, name) in [
            (
                "/home/a/.cargo/registry/src/index-1949cf8c6b5b557f/page_size-0.6.0/src/lib.rs",
                "page_size 0.6.0",
            ),
            ("/r/registry/src/mirror/sha-1-0.10.1/src/src/x.rs", "sha-1 0.10.1"),
            ("/home/a/.cargo/git/checkouts/my-net-0123456789abcdef/1234567/src/lib.rs", "my-net"),
            ("/home/a/vendor/page_size/src/lib.rs", "page_size"),
            ("/usr/src/my-guest/src/main.rs", "my-guest"),
            ("/rustc/0123456789abcdef/library/core/src/ops/function.rs", "core"),
        ] {
            assert_eq!(crate_of_file(path).as_deref(), Some(name));
        }
        for path in
            ["", "/", "/src/", "main.rs", "/registry/src/", "/git/checkouts/", "/rustc/", "src/lib.rs"]
        {
            assert!(crate_of_file(path).is_none_or(|name| name.is_empty()), "{path}");
        }
    }

    fn frame(function: &str, file: Option<&str>) -> Frame {
        let (function, file) = (Some(function.to_owned()), file.map(str::to_owned));
        Frame { address: 0, offset: None, function, file, line: None, inlined: false }
    }

    #[test]
    fn without_debug_information_the_function_names_its_crate() {
        let name = |function| user(&frame(function, None)).map(|user| user.crate_name);
        assert_eq!(name("page_size::get_helper").as_deref(), Some("page_size"));
        assert_eq!(name("<page_size::Size as core::fmt::Debug>::fmt").as_deref(), Some("page_size"));
        assert_eq!(name("main"), None);
        assert_eq!(name("core::ops::function::FnOnce::call_once"), None);
    }

    #[test]
    fn what_is_no_image_is_explained_by_nothing() {
        let error = ImageError::Dynamic { what: "DT_NEEDED" };
        assert_eq!(explain(error.clone(), || b"not an image".to_vec()), error);
    }

    #[test]
    fn many_are_counted() {
        let user = FunctionUser { crate_name: "page_size 0.6.0".into(), function: "get".into() };
        let missing = [
            MissingFunction { symbol: "sysconf".into(), user: Some(user) },
            MissingFunction { symbol: "write".into(), user: None },
        ];
        assert_eq!(list(&missing, 0), "`sysconf` for crate page_size 0.6.0 (get), `write`");
        assert_eq!(list(&missing[1..], 7), "`write` and 7 more");
    }
}
