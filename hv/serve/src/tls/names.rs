//! Which certificate belongs to a name: the exact one, else the wildcard one level above (RFC 9525, section 6.3).
#![forbid(unsafe_code)]

use std::collections::HashMap;

/// Certificates by names.
#[derive(Debug)]
pub(super) struct Names<T> {
    /// In lower case; wildcards with their `*`.
    by_name: HashMap<String, T>,
    /// For clients that name nothing, or nothing that is known.
    default: Option<T>,
}

impl<T> Names<T> {
    /// Of several for the same name, the first one is taken.
    pub(super) fn new(named: impl IntoIterator<Item = (String, T)>, default: Option<T>) -> Self {
        let mut by_name = HashMap::new();
        for (name, certificate) in named {
            by_name.entry(name.to_ascii_lowercase()).or_insert(certificate);
        }
        Names { by_name, default }
    }

    /// The one for the name that a client has sent.
    pub(super) fn find(&self, name: Option<&str>) -> Option<&T> {
        let exact_or_above = |name: &str| {
            let name = name.to_ascii_lowercase();
            let above = || Some(format!("*.{}", name.split_once('.')?.1));
            self.by_name.get(&name).or_else(|| self.by_name.get(&above()?))
        };
        name.and_then(exact_or_above).or(self.default.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_or_one_level_below_a_wildcard() {
        let named = [("a.example", 1), ("*.Example", 2), ("*.b.example", 3), ("a.example", 4)];
        let names = Names::new(named.map(|(name, number)| (name.to_owned(), number)), Some(9));
        for (name, number) in [
            ("a.example", 1),
            ("A.EXAMPLE", 1),
            ("b.example", 2),
            ("x.b.example", 3),
            ("y.x.b.example", 9),
            ("example", 9),
            ("", 9),
        ] {
            assert_eq!(names.find(Some(name)), Some(&number), "{name}");
        }
        assert_eq!(names.find(None), Some(&9));
        assert_eq!(Names::<()>::new([], None).find(Some("a")), None);
    }
}
