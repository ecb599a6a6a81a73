//! The path that an upstream sees.

use crate::route::Template;

/// How a matched path becomes the forwarded one.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Put before the path; empty or without a slash at its end.
    pub base: Box<str>,
    /// The new path; the matched one unless given.
    pub template: Option<Template>,
}

impl Rewrite {
    /// Whether every path stays as it is.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.base.is_empty() && self.template.is_none()
    }

    /// The path to forward, without the query.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        let mut out = String::with_capacity(self.base.len() + path.len());
        out.push_str(&self.base);
        match &self.template {
            Some(template) => template.expand(path, &mut out),
            None => out.push_str(path),
        }
        if out.is_empty() {
            out.push('/');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PathPattern;

    /// Seed 1's joining of target and rest.
    #[test]
    fn the_rest_joins_the_base() {
        let cases = [
            ("/api/v1/users/*", "", "/api/v1/users/123", "/123"),
            ("/api/*", "/users", "/api/users/7", "/users/users/7"),
            ("/api/users/*", "/users", "/api/users/7", "/users/7"),
            ("/api/users/*", "/users", "/api/users", "/users"),
            ("/api/users/*", "", "/api/users", "/"),
            ("/api/users/*", "/users", "/api/users/", "/users/"),
        ];
        for (pattern, base, path, expected) in cases {
            let pattern = PathPattern::parse(pattern).unwrap();
            let rewrite = Rewrite { base: base.into(), template: Template::new(&pattern, "/*").ok() };
            assert_eq!(rewrite.apply(path), expected, "{pattern} {base} {path}");
        }
    }
}
