//! Many objects, at one revision, in pages.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use trireme_model::Value;
use trireme_model::kinds::Kind;
use trireme_model::status::Status;
use trireme_state::{RangeError, RangeRequest, Revision};

use super::{Caller, Selection, parse_version};
use crate::document::{Document, outward};
use crate::route::Target;
use crate::store::{Freshness, Stored, prefix_range, range_failure};

/// Keys read at once while looking for selected objects, so that a selective list of a large collection
/// does not hold all of it in memory.
const CHUNK: usize = 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    #[default]
    Unset,
    Exact,
    NotOlderThan,
}

#[derive(Clone, Debug)]
pub(crate) struct ListRequest {
    pub target: Target,
    pub selection: Selection,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
    pub version_match: VersionMatch,
}

impl ListRequest {
    /// Everything in the collection.
    pub fn of(target: Target) -> ListRequest {
        ListRequest {
            target,
            selection: Selection {
                labels: trireme_model::selector::LabelSelector::everything(),
                fields: trireme_model::selector::FieldSelector::everything(),
            },
            limit: 0,
            continue_token: String::new(),
            resource_version: String::new(),
            version_match: VersionMatch::Unset,
        }
    }
}

pub(crate) fn parse_match(text: &str) -> Result<VersionMatch, Status> {
    match text {
        "" => Ok(VersionMatch::Unset),
        "Exact" => Ok(VersionMatch::Exact),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        other => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

#[derive(Debug)]
pub(crate) struct Listing {
    pub kind: &'static Kind,
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<u64>,
    pub items: Vec<Document>,
}

impl Listing {
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string() });
        if !self.continue_token.is_empty() {
            metadata["continue"] = self.continue_token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }

    pub fn to_json(&self) -> Vec<u8> {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            self.kind.list_kind(),
            self.kind.api_version(),
            self.metadata()
        );
        let mut out = head.into_bytes();
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            item.write_json(&mut out);
        }
        out.extend_from_slice(b"]}");
        out
    }

    pub fn values(self) -> Result<Vec<Value>, Status> {
        self.items.into_iter().map(Document::into_value).collect()
    }
}

/// Where a list goes on: at this revision, from this key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Continue {
    v: String,
    /// 0: at whatever revision is newest, after the token's own revision was compacted.
    rv: Revision,
    start: String,
}

const CONTINUE_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    fn encode(revision: Revision, start: &str) -> String {
        let token = Continue {
            v: CONTINUE_VERSION.to_owned(),
            rv: revision,
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str, prefix: &str) -> Result<Continue, Status> {
        let refused = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| refused("illegal base64 data"))?;
        let token: Continue =
            serde_json::from_slice(&bytes).map_err(|_| refused("not a token of this server"))?;
        if token.v != CONTINUE_VERSION {
            return Err(refused(&format!(
                "server does not recognize this encoded version {:?}",
                token.v
            )));
        }
        if !token.start.starts_with(prefix) {
            return Err(refused("it belongs to another collection"));
        }
        Ok(token)
    }
}

pub(crate) async fn list(caller: &Caller<'_>, request: &ListRequest) -> Result<Listing, Status> {
    caller
        .authorize("list", &request.target, Some(&request.selection.fields))
        .await?;
    collect(caller, request).await
}

/// As [`list`], for callers that are authorized otherwise.
pub(crate) async fn collect(caller: &Caller<'_>, request: &ListRequest) -> Result<Listing, Status> {
    let kind = request.target.kind;
    let prefix = kind.prefix(request.target.namespace.as_deref());
    let plan = plan(request, &prefix)?;
    caller.api.store.fresh(plan.freshness).await?;

    let (_, end) = prefix_range(&prefix);
    let mut revision = plan.exact;
    let mut start = Bytes::from(plan.start.clone().into_bytes());
    let mut items = Vec::new();
    let everything = request.selection.is_everything();
    loop {
        let wanted = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit - items.len()
        };
        // One key more than fits tells whether there is more.
        let chunk = if everything && request.limit > 0 {
            wanted
        } else if everything {
            0
        } else {
            CHUNK
        };
        let range = RangeRequest {
            start: start.clone(),
            end: end.clone(),
            revision,
            limit: chunk,
            keys_only: false,
        };
        let reply = caller
            .api
            .store
            .range(&range)
            .map_err(|error| match error {
                RangeError::Compacted { .. } if !request.continue_token.is_empty() => {
                    expired_token(&plan.start)
                }
                other => range_failure(other),
            })?;
        let at = *revision.get_or_insert(reply.revision);
        let mut last_key = None;
        let mut full = false;
        let count = reply.kvs.len();
        let mut read = 0;
        for kv in &reply.kvs {
            read += 1;
            last_key = Some(kv.key.clone());
            let stored = Stored::new(kv);
            let document = if everything {
                Document::of(kind, stored)?
            } else {
                let mut value = stored.value()?;
                outward(kind, &mut value);
                if !request.selection.matches(kind, &value) {
                    continue;
                }
                match Document::of(kind, stored)? {
                    Document::Stored(stored) => Document::Stored(stored),
                    Document::Value(_) => Document::Value(value),
                }
            };
            items.push(document);
            if request.limit > 0 && items.len() >= request.limit {
                full = true;
                break;
            }
        }
        let more = reply.more || read < count;
        if more
            && !full
            && let Some(last_key) = &last_key
        {
            start = after(last_key);
            continue;
        }
        let mut listing = Listing {
            kind,
            revision: at,
            continue_token: String::new(),
            remaining: None,
            items,
        };
        if more && let Some(last_key) = &last_key {
            let next = after(last_key);
            listing.continue_token = Continue::encode(at, &String::from_utf8_lossy(&next));
            // With selectors the rest is not known without reading it.
            listing.remaining = everything.then_some(reply.remaining);
        }
        return Ok(listing);
    }
}

/// The smallest key behind this one.
fn after(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn expired_token(start: &str) -> Status {
    let inconsistent = Continue::encode(0, start);
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                   new list without the continue parameter, or use the continue token in this response to retrieve \
                   the remainder of the results. Continuing with the provided token results in an inconsistent list \
                   - objects that were created, modified, or deleted between the time the first chunk was returned \
                   and now may show up in the list.";
    Status {
        details: Some(json!({ "continue": inconsistent })),
        ..Status::expired(message)
    }
}

/// At which revision a list reads, and from which key.
struct Plan {
    freshness: Freshness,
    exact: Option<Revision>,
    start: String,
}

fn plan(request: &ListRequest, prefix: &str) -> Result<Plan, Status> {
    let version = parse_version(&request.resource_version)?;
    let refused = |why: &str| {
        Err(Status::bad_request(format!(
            "resourceVersionMatch: Forbidden: {why}"
        )))
    };
    if !request.continue_token.is_empty() {
        if request.version_match != VersionMatch::Unset {
            return refused("resourceVersionMatch is forbidden when continue is provided");
        }
        if version.is_some_and(|version| version != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::decode(&request.continue_token, prefix)?;
        let (freshness, exact) = match token.rv {
            0 => (Freshness::Linearizable, None),
            revision => (Freshness::NotOlderThan(revision), Some(revision)),
        };
        return Ok(Plan {
            freshness,
            exact,
            start: token.start,
        });
    }
    let start = prefix.to_owned();
    let plan = |freshness, exact| {
        Ok(Plan {
            freshness,
            exact,
            start: start.clone(),
        })
    };
    match (version, request.version_match) {
        (None, VersionMatch::Unset) => plan(Freshness::Linearizable, None),
        (None, _) => {
            refused("resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        (Some(0), VersionMatch::Exact) => {
            refused("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        (Some(0), _) => plan(Freshness::Any, None),
        (Some(revision), VersionMatch::Exact) => {
            plan(Freshness::NotOlderThan(revision), Some(revision))
        }
        (Some(revision), VersionMatch::NotOlderThan) => {
            plan(Freshness::NotOlderThan(revision), None)
        }
        // A limited list at a version was exact before there was a way to say so.
        (Some(revision), VersionMatch::Unset) if request.limit > 0 => {
            plan(Freshness::NotOlderThan(revision), Some(revision))
        }
        (Some(revision), VersionMatch::Unset) => plan(Freshness::NotOlderThan(revision), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_collection() {
        let token = Continue::encode(7, "/registry/pods/a/b\0");
        let decoded = Continue::decode(&token, "/registry/pods/a/").unwrap();
        assert_eq!(
            (decoded.rv, decoded.start.as_str()),
            (7, "/registry/pods/a/b\0")
        );
        assert_eq!(
            Continue::decode(&token, "/registry/secrets/")
                .unwrap_err()
                .code,
            400
        );
        assert_eq!(
            Continue::decode("%%%", "/registry/pods/").unwrap_err().code,
            400
        );
    }

    #[test]
    fn versions_say_how_fresh_a_list_is() {
        let target = Target::object(trireme_model::kinds::POD, "a", "");
        let at = |version: &str, version_match, limit| {
            let request = ListRequest {
                resource_version: version.to_owned(),
                version_match,
                limit,
                ..ListRequest::of(target.clone())
            };
            plan(&request, "/registry/pods/a/")
                .map(|plan| (plan.freshness, plan.exact))
                .map_err(|status| status.code)
        };
        assert_eq!(
            at("", VersionMatch::Unset, 0),
            Ok((Freshness::Linearizable, None))
        );
        assert_eq!(at("0", VersionMatch::Unset, 5), Ok((Freshness::Any, None)));
        assert_eq!(
            at("9", VersionMatch::Unset, 0),
            Ok((Freshness::NotOlderThan(9), None))
        );
        assert_eq!(
            at("9", VersionMatch::Unset, 5),
            Ok((Freshness::NotOlderThan(9), Some(9)))
        );
        assert_eq!(
            at("9", VersionMatch::Exact, 0),
            Ok((Freshness::NotOlderThan(9), Some(9)))
        );
        assert_eq!(
            at("9", VersionMatch::NotOlderThan, 5),
            Ok((Freshness::NotOlderThan(9), None))
        );
        assert_eq!(at("0", VersionMatch::Exact, 0), Err(400));
        assert_eq!(at("", VersionMatch::Exact, 0), Err(400));
        assert_eq!(at("x", VersionMatch::Unset, 0), Err(400));
    }
}
