//! The stable codes of the findings, and what `pointsman explain CODE` says of each.

use super::diagnostic::Severity;

macro_rules! codes {
    ($($name:ident = $text:literal, $severity:ident, $title:literal, $explanation:literal;)*) => {
        /// The stable code of a finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is written, for example `E0102`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether it refuses the configuration.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// The finding in a few words.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Why it is a mistake and how to put it right.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => $explanation,)* }
            }
        }
    };
}

codes! {
    Syntax = "E0001", Error, "the file is not valid YAML",
        "The text cannot be read as YAML. The place shown is where the reader gave up; the mistake is there or a little before it: a missing colon or quote, a tab in the indentation, or an unclosed bracket. A value that begins with one of  * & ! % @ ` { [  needs quotes.";
    Unreadable = "E0002", Error, "a file cannot be read",
        "The file does not exist, is a directory, is larger than 64 MiB, is not UTF-8, or its permissions do not let the gateway read it. A relative path is relative to the configuration file that names it.";
    DuplicateKey = "E0003", Error, "a key is given twice",
        "A mapping has the same key twice. Which of the two was meant cannot be known, so neither is taken. Files named by `include` add to the first file and never override it.";
    MissingVariable = "E0004", Error, "an environment variable is not set",
        "The text `${NAME}` is replaced by the environment variable NAME, which is not set. Set it, or give a default with `${NAME:-default}`. A literal dollar sign before a brace is written `$$`.";
    YamlFeature = "E0005", Error, "a YAML feature is not accepted",
        "Anchors, aliases, tags, merge keys, several documents in one file and keys that are not plain text are refused: they hide what a configuration says.";
    Include = "E0006", Error, "an include or import is wrong",
        "`include` takes paths and patterns such as `conf.d/*.yaml`; an included file cannot include more files. `imports` takes files in one of the known shapes.";
    UnknownKey = "E0010", Error, "an unknown key",
        "No setting of this name exists here. A setting that this version does not implement is refused rather than ignored.";
    WrongType = "E0011", Error, "a value of the wrong kind",
        "The setting takes another kind of value: a list where a mapping was given, text where a number was given, and so on.";
    MissingKey = "E0012", Error, "a required key is missing",
        "The mapping lacks a setting that has no default.";
    Unit = "E0013", Error, "a value without a unit",
        "Durations carry a unit: `250ms`, `30s`, `5m`, `1h`; so do shares, `20%`, and sizes, `64KiB`. A bare number is refused because seconds and milliseconds, or a fifth and twenty percent, are easily confused.";
    InvalidValue = "E0014", Error, "a value out of its range",
        "The value has the right kind but is not one that this setting can take.";
    PathPattern = "E0101", Error, "an invalid path pattern",
        "A pattern begins with `/`. `:name` stands for one segment, `*` for one segment in the middle or, as the last segment, for all the rest. `/api*` is refused: write `/api/*`, which matches `/api` too. `~^/re$` is a regular expression.";
    UnknownUpstream = "E0102", Error, "a route names an unknown upstream",
        "A target, a member of a split, fallback or shift, or a mirror names an upstream that `upstreams:` does not have. A URL needs its scheme: `http://…` or `https://…`.";
    SameRoutes = "E0103", Error, "two routes cannot be told apart",
        "Two routes match exactly the same requests with the same priority and tests, so the second could never serve one. Remove one, or tell them apart by host, path, method, header, query, cookie, client or priority.";
    Host = "E0104", Error, "an invalid host",
        "A host is a name such as `api.example.com`, a wildcard such as `*.example.com` (one or more labels), or `*` for every host; without scheme, port or path.";
    Regex = "E0105", Error, "an invalid regular expression",
        "The expression is not valid, or is larger than the limit of 1 MiB when compiled. Expressions run in linear time, so back-references and look-around do not exist.";
    Header = "E0106", Error, "an invalid header",
        "Header names are tokens (RFC 9110, section 5.1); values have no control characters. Headers that frame the message or belong to the connection, and `host`, cannot be edited.";
    TargetUrl = "E0107", Error, "an invalid target",
        "A target URL has the scheme http or https, a host, optionally a port and a path; no user name, query or fragment.";
    Listener = "E0108", Error, "an invalid listener",
        "A listener's address is an IP address and a port, such as `0.0.0.0:80` or `[::1]:8080`, and no two listeners share one.";
    Endpoint = "E0109", Error, "an invalid endpoint",
        "An endpoint is a host and a port, such as `10.0.0.5:8080` or `users.internal:8080`, and stands once in its upstream. An upstream has its endpoints from one source: `endpoints`, `dns` (a name and a port), `srv` (a name of SRV records) or `endpoints_file` (one endpoint to a line).";
    Rewrite = "E0110", Error, "an invalid rewrite",
        "A rewrite begins with `/`; `:name` stands for the path's parameter of that name and a last segment `*` for what the path's last `*` matched. `strip_prefix` needs a path that ends in `/*`. A route has one of the two.";
    Method = "E0111", Error, "an invalid method",
        "Methods are upper-case tokens such as GET or PATCH. CONNECT cannot be routed.";
    Tls = "E0112", Error, "invalid TLS settings",
        "A TLS connection to an upstream is always verified, so it needs a server name: taken from the URL, or given as `tls: { sni: name }` when endpoints are addresses. `ca` is a PEM file with at least one certificate.";
    Admin = "E0113", Error, "the admin address is not safe",
        "The admin listener has no authentication yet. It binds a loopback address or a Unix socket (`unix:/run/pointsman/admin.sock`), nothing else.";
    Name = "E0114", Error, "an invalid or repeated name",
        "Names are unique within their kind, and consist of letters, digits and `- _ . / : * ~`; at most 128 characters.";
    Unreachable = "W0201", Warning, "a route is never reached",
        "Another route ranks before this one and matches every request that this one matches. The witness is one such request. Raise this route's `priority`, or narrow the other.";
    UnusedUpstream = "W0202", Warning, "an upstream that no route uses",
        "The upstream is checked and resolved, but no route sends it requests.";
    NeedsUpgrade = "E0301", Error, "a change that a reload cannot make",
        "Listening addresses, worker threads, the admin address and the access log's file are set when the process starts. Nothing of the new configuration was applied; restart the service to apply it.";
}

impl Code {
    /// The code written so, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(text))
    }
}
