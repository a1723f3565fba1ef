//! Matchers of strings, headers and query parameters.

use trireme_proxy_decide::config::{
    HeaderMatch, HeaderMatcher, QueryMatch, QueryMatcher, Regex, RegexRewrite, StringMatch,
    StringMatcher,
};

use super::refusal::{At, Outcome, reason, refused};
use crate::pb::envoy::config::route::v3 as route;
use crate::pb::envoy::r#type::matcher::v3 as proto;

pub(super) fn regex(matcher: &proto::RegexMatcher) -> Outcome<Regex> {
    if matcher.regex.is_empty() {
        return Err(refused("regex", "must not be empty"));
    }
    Regex::new(&matcher.regex).at("regex")
}

pub(super) fn regex_rewrite(rewrite: &proto::RegexMatchAndSubstitute) -> Outcome<RegexRewrite> {
    let Some(pattern) = &rewrite.pattern else {
        return Err(refused("pattern", "must be given"));
    };
    let pattern = regex(pattern).at("pattern")?;
    check_substitution(&pattern, &rewrite.substitution).at("substitution")?;
    Ok(RegexRewrite {
        pattern,
        substitution: rewrite.substitution.as_str().into(),
    })
}

/// RE2's rules: a backslash is followed by a digit of a group that exists, or by a backslash.
fn check_substitution(pattern: &Regex, substitution: &str) -> Outcome<()> {
    let groups = groups(pattern.source());
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            continue;
        }
        match letters.next() {
            Some('\\') => {}
            Some(digit @ '0'..='9') => {
                let group = digit as usize - '0' as usize;
                if group > groups {
                    return Err(reason(format!(
                        "\\{group} refers to a group that the pattern, with {groups}, does not have"
                    )));
                }
            }
            _ => return Err(reason("'\\' must be followed by a digit or '\\'")),
        }
    }
    Ok(())
}

/// Capturing groups of an expression that is known to be one.
fn groups(source: &str) -> usize {
    let bytes = source.as_bytes();
    let (mut count, mut index, mut in_class) = (0, 0, false);
    while index < bytes.len() {
        match bytes[index] {
            b'\\' => index += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'(' if !in_class => {
                let rest = &bytes[index + 1..];
                let named = rest.starts_with(b"?P<") || rest.starts_with(b"?<");
                if !rest.starts_with(b"?") || named {
                    count += 1;
                }
            }
            _ => {}
        }
        index += 1;
    }
    count
}

pub(super) fn string(matcher: &proto::StringMatcher) -> Outcome<StringMatcher> {
    use proto::string_matcher::MatchPattern;
    let pattern = match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => StringMatch::Exact(text.as_str().into()),
        Some(MatchPattern::Prefix(text)) => StringMatch::Prefix(text.as_str().into()),
        Some(MatchPattern::Suffix(text)) => StringMatch::Suffix(text.as_str().into()),
        Some(MatchPattern::Contains(text)) => StringMatch::Contains(text.as_str().into()),
        Some(MatchPattern::SafeRegex(expression)) => {
            StringMatch::Regex(regex(expression).at("safe_regex")?)
        }
        Some(MatchPattern::Custom(_)) => {
            return Err(refused("custom", "is not supported by this proxy"));
        }
        None => return Err(reason("must say what to match")),
    };
    Ok(StringMatcher {
        pattern,
        ignore_case: matcher.ignore_case,
    })
}

pub(super) fn header(matcher: &route::HeaderMatcher) -> Outcome<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier;
    if matcher.name.is_empty() {
        return Err(refused("name", "must not be empty"));
    }
    let plain = |pattern| {
        HeaderMatch::String(StringMatcher {
            pattern,
            ignore_case: false,
        })
    };
    // The old spellings stand beside string_match in what is still written today.
    #[allow(deprecated)]
    let what = match &matcher.header_match_specifier {
        None => HeaderMatch::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderMatch::Present(*present),
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderMatch::String(string(matcher).at("string_match")?)
        }
        Some(HeaderMatchSpecifier::ExactMatch(text)) => {
            plain(StringMatch::Exact(text.as_str().into()))
        }
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => {
            plain(StringMatch::Prefix(text.as_str().into()))
        }
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => {
            plain(StringMatch::Suffix(text.as_str().into()))
        }
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
            plain(StringMatch::Contains(text.as_str().into()))
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(expression)) => plain(StringMatch::Regex(
            regex(expression).at("safe_regex_match")?,
        )),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => HeaderMatch::Range {
            start: range.start,
            end: range.end,
        },
    };
    let mut out = HeaderMatcher::new(&matcher.name, what);
    if out.key.is_none() && !out.name.starts_with(':') && &*out.name != "host" {
        return Err(refused(
            "name",
            format!("{:?} is no header name", matcher.name),
        ));
    }
    out.invert = matcher.invert_match;
    out.treat_missing_as_empty = matcher.treat_missing_header_as_empty;
    Ok(out)
}

pub(super) fn query(matcher: &route::QueryParameterMatcher) -> Outcome<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    if matcher.name.is_empty() {
        return Err(refused("name", "must not be empty"));
    }
    let what = match &matcher.query_parameter_match_specifier {
        None => QueryMatch::Present(true),
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => QueryMatch::Present(*present),
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            QueryMatch::String(string(matcher).at("string_match")?)
        }
    };
    Ok(QueryMatcher {
        name: matcher.name.as_str().into(),
        matcher: what,
    })
}
