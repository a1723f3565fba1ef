//! Matchers of strings, headers, paths, query parameters and fractions.

use std::fmt;
use std::sync::Arc;

use ::http::HeaderName;

use super::ConfigError;

/// A regular expression that must match the whole text, as Envoy uses RE2.
#[derive(Clone)]
pub struct Regex {
    source: Arc<str>,
    whole: Arc<regex::Regex>,
    anywhere: Arc<regex::Regex>,
}

/// Largest compiled expression in bytes: Envoy's default RE2 program limits are of this order, and
/// a route table of a thousand expressions stays within tens of megabytes.
const REGEX_SIZE_LIMIT: usize = 256 * 1024;

impl Regex {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`ConfigError::Regex`] where it is no expression or needs too much memory.
    pub fn new(source: &str) -> Result<Regex, ConfigError> {
        let compile = |pattern: &str| {
            regex::RegexBuilder::new(pattern)
                .size_limit(REGEX_SIZE_LIMIT)
                .dfa_size_limit(REGEX_SIZE_LIMIT)
                .build()
                .map(Arc::new)
                .map_err(|error| ConfigError::Regex {
                    pattern: source.to_owned(),
                    reason: error.to_string(),
                })
        };
        let anywhere = compile(source)?;
        let whole = compile(&format!(r"\A(?:{source})\z"))?;
        Ok(Regex {
            source: Arc::from(source),
            whole,
            anywhere,
        })
    }

    /// The expression's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// Replaces every match in `text`; `substitution` in RE2's spelling (`\1` a group, `\0` the
    /// whole match, `\\` a backslash).
    #[must_use]
    pub fn replace_all(&self, text: &str, substitution: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut last = 0;
        for found in self.anywhere.captures_iter(text) {
            let Some(all) = found.get(0) else { continue };
            out.push_str(&text[last..all.start()]);
            let mut chars = substitution.chars();
            while let Some(letter) = chars.next() {
                if letter != '\\' {
                    out.push(letter);
                    continue;
                }
                match chars.next() {
                    Some(digit @ '0'..='9') => {
                        let group = digit as usize - '0' as usize;
                        out.push_str(found.get(group).map_or("", |part| part.as_str()));
                    }
                    Some(other) => out.push(other),
                    None => {}
                }
            }
            last = all.end();
        }
        out.push_str(&text[last..]);
        out
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Regex({:?})", self.source)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Regex) -> bool {
        self.source == other.source
    }
}

/// How a string must look.
#[derive(Clone, Debug, PartialEq)]
pub enum StringMatch {
    /// Equal to this.
    Exact(Arc<str>),
    /// Begins with this.
    Prefix(Arc<str>),
    /// Ends with this.
    Suffix(Arc<str>),
    /// Contains this.
    Contains(Arc<str>),
    /// Matches the whole expression. `ignore_case` has no effect on it.
    Regex(Regex),
}

/// Envoy's `StringMatcher`.
#[derive(Clone, Debug, PartialEq)]
pub struct StringMatcher {
    /// How the string must look.
    pub pattern: StringMatch,
    /// Whether ASCII letters match in either case.
    pub ignore_case: bool,
}

/// How a path must look.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// The path with its query begins with this.
    Prefix(Arc<str>),
    /// The path without query equals this.
    Exact(Arc<str>),
    /// The path without query matches the whole expression.
    Regex(Regex),
    /// The path without query equals this or continues with `/`. No trailing slash here.
    SeparatedPrefix(Arc<str>),
    /// CONNECT requests.
    Connect,
    /// A pattern of Envoy's URI template matcher, compiled to an expression.
    Template(Regex),
}

/// Envoy's `HeaderMatcher`. Pseudo-headers are spelled `:path`, `:method`, `:authority`,
/// `:scheme`.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatcher {
    /// The header's name in lower case.
    pub name: Arc<str>,
    /// The name as an index into a header map; none for pseudo-headers and `host`.
    pub key: Option<HeaderName>,
    /// What the value must be.
    pub matcher: HeaderMatch,
    /// Whether the answer is turned around.
    pub invert: bool,
    /// Whether an absent header counts as one with an empty value.
    pub treat_missing_as_empty: bool,
}

impl HeaderMatcher {
    /// A matcher for `name`, neither inverted nor lenient about absence.
    #[must_use]
    pub fn new(name: &str, matcher: HeaderMatch) -> HeaderMatcher {
        let name = name.to_ascii_lowercase();
        let key = if name.starts_with(':') || name == "host" {
            None
        } else {
            HeaderName::from_bytes(name.as_bytes()).ok()
        };
        HeaderMatcher {
            key,
            name: Arc::from(name),
            matcher,
            invert: false,
            treat_missing_as_empty: false,
        }
    }
}

/// What a header's value must be. Of several values of one name one is enough.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderMatch {
    /// Present (true) or absent (false).
    Present(bool),
    /// As the string matcher says.
    String(StringMatcher),
    /// A decimal integer in `[start, end)`.
    Range {
        /// The smallest that matches.
        start: i64,
        /// The first past the range.
        end: i64,
    },
}

/// Envoy's `QueryParameterMatcher`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatcher {
    /// The parameter's name.
    pub name: Arc<str>,
    /// What its first value must be.
    pub matcher: QueryMatch,
}

/// What a query parameter must be.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryMatch {
    /// Present (true) or absent (false).
    Present(bool),
    /// As the string matcher says.
    String(StringMatcher),
}

/// A share of requests: `numerator` of `denominator` (100, 10,000 or 1,000,000).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// Requests that count.
    pub numerator: u32,
    /// Of how many.
    pub denominator: u32,
}

impl Fraction {
    /// Every request.
    pub const ALL: Fraction = Fraction::percent(100);
    /// No request.
    pub const NONE: Fraction = Fraction::percent(0);

    /// Whole percents.
    #[must_use]
    pub const fn percent(percent: u32) -> Fraction {
        Fraction {
            numerator: percent,
            denominator: 100,
        }
    }

    /// Whether `draw` (uniform in 64 bits) falls within the share: `draw % denominator <
    /// numerator`, as Envoy evaluates it.
    #[must_use]
    pub fn covers(self, draw: u64) -> bool {
        self.denominator != 0 && draw % u64::from(self.denominator) < u64::from(self.numerator)
    }
}
