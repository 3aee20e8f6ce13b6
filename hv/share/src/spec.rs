//! What the command line says about a share.

use hv_abi::io::share::TAG_MAX;
use hv_host::escape::escape;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A share as the command line names it: `FOLDER[=TAG][,ro][,cache=auto|always][,uid=N]`.
///
/// Only known options at the end are taken as options, so a folder's name may have commas. What stands behind the last `=` is the tag if
/// it can be one and there is no slash in it; a folder with such a name is written with a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareSpec {
    /// The folder.
    pub path: PathBuf,
    /// What the guest calls it.
    pub tag: Tag,
    /// The guest may not change anything.
    pub read_only: bool,
    /// Nothing in it changes while the guest runs, so the guest may keep what it has found. Only of a read-only one.
    pub unchanging: bool,
    /// The user that all files appear to belong to. `None`: the host's.
    pub uid: Option<u32>,
}

/// What a share is called: 1 to 40 letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(String);

impl Tag {
    /// The name, if it may be one.
    pub fn new(name: &str) -> Option<Tag> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        ((1..=TAG_MAX).contains(&name.len()) && name.bytes().all(valid)).then(|| Tag(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the value of `--share` is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no folder in front of the options.
    #[error("no folder in \"{}\"; write FOLDER[=TAG][,ro][,cache=auto|always][,uid=N]", escape(.0))]
    NoFolder(String),
    /// The folder's own name cannot be the tag.
    #[error(
        "\"{}\" has no name that can be a tag (letters, digits, . _ -, at most {TAG_MAX}); write FOLDER=TAG",
        escape(.0)
    )]
    NoTag(String),
    /// A tag that cannot be one.
    #[error("\"{}\" cannot be a tag (letters, digits, . _ -, at most {TAG_MAX}); write {}=TAG", escape(.tag), escape(.folder))]
    BadTag {
        /// The folder, which is there.
        folder: String,
        /// What stands behind it.
        tag: String,
    },
    /// A user that is no number.
    #[error("uid= takes a number up to 4294967294, not \"{}\"", escape(.0))]
    Uid(String),
    /// A kind of cache that there is not.
    #[error("cache= takes auto or always, not \"{}\"", escape(.0))]
    Cache(String),
    /// A share that the guest changes cannot be kept.
    #[error(
        "cache=always is for a folder in which nothing changes: the guest must not change it either; add ,ro"
    )]
    CacheOfChanges,
    /// An option was given more than once.
    #[error("the share option \"{0}\" is given twice")]
    Repeated(&'static str),
}

impl FromStr for ShareSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (mut place, mut read_only, mut cache, mut uid) = (text, false, None, None);
        while let Some((rest, option)) = place.rsplit_once(',') {
            let (name, repeated) = match option.split_once('=') {
                None if option == "ro" => ("ro", std::mem::replace(&mut read_only, true)),
                Some(("uid", number)) => {
                    let number = number.parse().ok().filter(|&number: &u32| number != u32::MAX);
                    let number = number.ok_or_else(|| SpecError::Uid(option["uid=".len()..].into()))?;
                    ("uid=", uid.replace(number).is_some())
                }
                Some(("cache", kind)) => {
                    let always = match kind {
                        "always" => true,
                        "auto" => false,
                        _ => return Err(SpecError::Cache(kind.into())),
                    };
                    ("cache=", cache.replace(always).is_some())
                }
                _ => break,
            };
            if repeated {
                return Err(SpecError::Repeated(name));
            }
            place = rest;
        }
        let (folder, tag) = match place.rsplit_once('=').map(|(folder, tag)| (folder, tag, Tag::new(tag))) {
            Some((folder, _, Some(tag))) => (folder, Some(tag)),
            // A folder that is there may have such a name.
            Some((folder, tag, None)) if !Path::new(place).exists() && Path::new(folder).is_dir() => {
                return Err(SpecError::BadTag { folder: folder.into(), tag: tag.into() });
            }
            _ => (place, None),
        };
        if folder.is_empty() {
            return Err(SpecError::NoFolder(text.into()));
        }
        let path = PathBuf::from(folder);
        let tag = tag.or_else(|| own_name(&path)).ok_or_else(|| SpecError::NoTag(folder.into()))?;
        let unchanging = cache == Some(true);
        if unchanging && !read_only {
            return Err(SpecError::CacheOfChanges);
        }
        Ok(ShareSpec { path, tag, read_only, unchanging, uid })
    }
}

/// The folder's own name as a tag, also of one like `.`.
fn own_name(path: &Path) -> Option<Tag> {
    let name = |path: &Path| Tag::new(path.file_name()?.to_str()?);
    name(path).or_else(|| name(&path.canonicalize().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str, tag: &str, uid: Option<u32>) -> Result<ShareSpec, SpecError> {
        Ok(ShareSpec {
            path: path.into(),
            tag: Tag::new(tag).unwrap(),
            read_only: true,
            unchanging: false,
            uid,
        })
    }

    #[test]
    fn folders_tags_and_options() {
        let parse = str::parse::<ShareSpec>;
        assert_eq!(parse("docs,ro"), spec("docs", "docs", None));
        assert_eq!(parse("/srv/data/,ro,uid=7"), spec("/srv/data/", "data", Some(7)));
        assert_eq!(parse("a,b=work,uid=0,ro"), spec("a,b", "work", Some(0)));
        assert_eq!(parse("a=b/c,ro"), spec("a=b/c", "c", None));
        assert_eq!(parse("/=root,ro"), spec("/", "root", None));
        let writable = spec("work", "work", None).map(|spec| ShareSpec { read_only: false, ..spec });
        assert_eq!(parse("work"), writable.clone());
        assert_eq!(parse("work,cache=auto"), writable);
        let unchanging = spec("docs", "docs", None).map(|spec| ShareSpec { unchanging: true, ..spec });
        assert_eq!(parse("docs,cache=always,ro"), unchanging);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parse = str::parse::<ShareSpec>;
        assert_eq!(parse(""), Err(SpecError::NoFolder("".into())));
        assert_eq!(parse("=tag,ro"), Err(SpecError::NoFolder("=tag,ro".into())));
        assert_eq!(parse("/,ro"), Err(SpecError::NoTag("/".into())));
        assert_eq!(parse("a b/x y,ro"), Err(SpecError::NoTag("a b/x y".into())));
        let bad_tag = SpecError::BadTag { folder: "/".into(), tag: "a/b".into() };
        assert_eq!(parse("/=a/b,ro"), Err(bad_tag));
        assert_eq!(parse("a,ro,ro"), Err(SpecError::Repeated("ro")));
        assert_eq!(parse("a,ro,cache=all"), Err(SpecError::Cache("all".into())));
        assert_eq!(parse("a,cache=always"), Err(SpecError::CacheOfChanges));
        assert_eq!(parse("a,cache=auto,cache=auto,ro"), Err(SpecError::Repeated("cache=")));
        assert_eq!(parse("a,ro,uid=x"), Err(SpecError::Uid("x".into())));
        assert_eq!(parse("a,ro,uid=4294967295"), Err(SpecError::Uid("4294967295".into())));
    }
}
