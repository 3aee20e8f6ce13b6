//! Which function a path leads to: the exact one, else the longest prefix.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

/// A table of paths. Paths are compared byte by byte, as they stand in the
/// request: nothing is decoded and nothing is normalized.
#[derive(Debug)]
pub(super) struct Routes<T> {
    exact: HashMap<String, T>,
    /// By the prefix, which ends in `/`.
    prefixes: BTreeMap<String, T>,
}

impl<T: Clone> Routes<T> {
    /// The table of these paths; one that ends in `*` stands for all that start with what is before it.
    pub(super) fn new(paths: impl IntoIterator<Item = (String, T)>) -> Self {
        let mut routes = Routes { exact: HashMap::new(), prefixes: BTreeMap::new() };
        for (path, target) in paths {
            match path.strip_suffix('*') {
                Some(prefix) => routes.prefixes.insert(prefix.into(), target),
                None => routes.exact.insert(path, target),
            };
        }
        routes
    }

    /// Where a path leads.
    pub(super) fn find(&self, path: &str) -> Option<&T> {
        if let Some(target) = self.exact.get(path) {
            return Some(target);
        }
        if self.prefixes.is_empty() {
            return None;
        }
        // From the longest part that ends in `/` to the shortest.
        let ends = path.bytes().enumerate().rev().filter(|&(_, byte)| byte == b'/').map(|(at, _)| at + 1);
        ends.into_iter().find_map(|end| self.prefixes.get(&path[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_paths_come_before_prefixes_and_long_prefixes_before_short_ones() {
        let paths = ["/a", "/a/*", "/a/b/*", "/a/b/c", "/*"].map(|path| (path.to_owned(), path));
        let routes = Routes::new(paths);
        for (path, expected) in [
            ("/a", "/a"),
            ("/a/", "/a/*"),
            ("/a/x", "/a/*"),
            ("/a/b", "/a/*"),
            ("/a/b/", "/a/b/*"),
            ("/a/b/c", "/a/b/c"),
            ("/a/b/c/", "/a/b/*"),
            ("/ab", "/*"),
            ("/", "/*"),
            ("/A", "/*"),
        ] {
            assert_eq!(routes.find(path), Some(&expected), "{path}");
        }
    }

    #[test]
    fn what_no_path_covers_leads_nowhere() {
        let routes = Routes::new([("/a/*".to_owned(), ()), ("/b".to_owned(), ())]);
        for path in ["/", "/a", "/b/", "/c", "", "*"] {
            assert_eq!(routes.find(path), None, "{path}");
        }
    }
}
