//! What can only be checked when all functions are known: their routes.

use super::validate::Validator;
use super::*;
use std::collections::BTreeMap;

impl Validator<'_> {
    pub(super) fn together(&self, mut config: Config) -> Result<Config, ConfigError> {
        if config.functions.is_empty() {
            let location = Location::File(self.path.into());
            return Err(ConfigError { location, problem: Problem::Empty });
        }
        let mut owners = BTreeMap::<&str, &FunctionConfig>::new();
        for function in &config.functions {
            for path in &function.paths {
                if let Some(other) = owners.insert(path, function) {
                    let problem = Problem::DoubleRoute {
                        path: path.clone(),
                        other: other.name.clone(),
                        location: other.location.clone(),
                    };
                    return Err(ConfigError { location: function.location.clone(), problem });
                }
            }
        }
        for (path, inner) in &owners {
            let around =
                prefixes(path).filter_map(|prefix| owners.get(&*prefix).map(|outer| (prefix, *outer)));
            for (prefix, outer) in around {
                check_tenants((path, inner), (&prefix, outer))?;
            }
        }
        check_equal_pages(&config.functions)?;
        config.configured.clone_from(&config.functions);
        let saved = config.api.as_ref().map(|api| Saved::read(&api.state)).transpose()?;
        config.apply(saved.unwrap_or_default())?;
        Ok(config)
    }
}

/// All routes that a path, or each path of a route, is in besides.
fn prefixes(path: &str) -> impl Iterator<Item = String> {
    let stem = path.strip_suffix("/*").unwrap_or(path);
    let own = path.len() == stem.len();
    let ends = stem.rmatch_indices('/').map(|(at, _)| at);
    // A prefix that ends in `/*` begins at each slash of the path.
    ends.map(move |at| format!("{}/*", &stem[..at])).filter(move |prefix| own || prefix.len() < path.len())
}

/// The kernel shares equal pages between all who take part, so that no more than one tenant's functions may.
fn check_equal_pages(functions: &[FunctionConfig]) -> Result<(), ConfigError> {
    let mut sharing = functions.iter().filter(|function| function.deployment.share_equal_pages);
    let Some(first) = sharing.next() else { return Ok(()) };
    match sharing.find(|function| function.deployment.tenant != first.deployment.tenant) {
        None => Ok(()),
        Some(other) => {
            let problem =
                Problem::SharedEqualPages { other: first.name.clone(), location: first.location.clone() };
            Err(ConfigError { location: other.location.clone(), problem })
        }
    }
}

/// A tenant takes no paths out of those of another one.
fn check_tenants(
    (path, inner): (&str, &FunctionConfig),
    (prefix, outer): (&str, &FunctionConfig),
) -> Result<(), ConfigError> {
    let (Some(tenant), Some(other)) = (&inner.deployment.tenant, &outer.deployment.tenant) else {
        return Ok(());
    };
    if tenant == other {
        return Ok(());
    }
    let overlap = Overlap {
        path: path.into(),
        tenant: tenant.clone(),
        prefix: prefix.into(),
        other: other.clone(),
        location: outer.location.clone(),
    };
    let problem = Problem::OverlappingRoutes(Box::new(overlap));
    Err(ConfigError { location: inner.location.clone(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_around_a_path() {
        let around = |path: &str| prefixes(path).collect::<Vec<_>>();
        assert_eq!(around("/a/b"), ["/a/*", "/*"]);
        assert_eq!(around("/a/b/*"), ["/a/*", "/*"]);
        assert_eq!(around("/a/"), ["/a/*", "/*"]);
        assert_eq!(around("/a"), ["/*"]);
        assert_eq!(around("/*"), [""; 0]);
        assert_eq!(around("/"), ["/*"]);
    }
}
