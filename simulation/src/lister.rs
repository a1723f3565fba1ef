//! Lists ConfigMaps in pages, as clients do: the token of a page goes to whichever server, perhaps so late that it
//! has expired.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use trireme_check::listing::{Listing, Page};

use crate::client::{CONFIG_MAP_PREFIX, CONFIG_MAPS, config_map};
use crate::connection::{Connection, request};
use crate::record::Record;

const PATIENCE: Duration = Duration::from_millis(2_000);
/// Items on a page; 0: all of them.
const LIMITS: [usize; 5] = [0, 0, 2, 5, 20];
/// Between two looks at whether the world comes to its end.
const LOOK: Duration = Duration::from_millis(500);
/// Failures in a row after which a list is given up.
const MAX_FAILURES: u32 = 5;

/// What a list needs of its surroundings.
pub struct Lister<'a> {
    pub name: &'a str,
    pub servers: u64,
    /// How long what is overwritten can be read: a page asked for later than that meets an expired token.
    pub history: Duration,
    pub record: &'a Record,
    /// Nobody dawdles once the world comes to its end, and this is less than the greatest number.
    pub last_revision: &'a AtomicU64,
}

/// A page's items and the token for the next one, or what a refusal offers to go on with.
enum Answer {
    Page(Page, Option<String>),
    Expired(Option<String>),
}

fn page(body: &Value) -> Option<Answer> {
    let metadata = &body["metadata"];
    let token = metadata["continue"].as_str().filter(|it| !it.is_empty());
    let token = token.map(str::to_owned);
    if body["code"] == 410 {
        return Some(Answer::Expired(token));
    }
    let mut items = Vec::new();
    for item in body["items"].as_array()? {
        let name = item["metadata"]["name"].as_str()?;
        items.push((format!("{CONFIG_MAP_PREFIX}{name}"), config_map(item)?.0));
    }
    let page = Page {
        revision: metadata["resourceVersion"].as_str()?.parse().ok()?,
        items,
        more: token.is_some(),
        after_expiry: false,
    };
    Some(Answer::Page(page, token))
}

impl Lister<'_> {
    /// Everything, and the revision that it is of; `None` where no whole list of one revision came about.
    /// `server` is whom to ask first, and in the end who answered last.
    pub async fn list(
        &self,
        connection: &mut Connection,
        server: &mut u64,
        random: &mut ChaCha8Rng,
    ) -> Option<(u64, BTreeMap<String, u64>)> {
        let mut listing = Listing {
            name: self.name.to_owned(),
            prefix: CONFIG_MAP_PREFIX.to_owned(),
            limit: LIMITS[random.random_range(0..LIMITS.len())],
            pages: Vec::new(),
        };
        self.record
            .note(self.name, format_args!("lists by {}", listing.limit));
        let mut token: Option<String> = None;
        let mut expired = false;
        let mut failures = 0;
        let whole = loop {
            let from = token.as_deref().unwrap_or_default();
            let path = format!("{CONFIG_MAPS}?limit={}&continue={from}", listing.limit);
            let asked = connection
                .ask(*server, request("GET", &path, None), PATIENCE)
                .await;
            let body = asked
                .ok()
                .and_then(|(_, body)| serde_json::from_slice(&body).ok());
            match body.as_ref().and_then(page) {
                Some(Answer::Page(page, next)) => {
                    failures = 0;
                    listing.pages.push(Page {
                        after_expiry: std::mem::take(&mut expired),
                        ..page
                    });
                    let Some(next) = next else { break true };
                    token = Some(next);
                    self.dawdle(random).await;
                }
                Some(Answer::Expired(next)) => {
                    self.record.lock().expired += 1;
                    self.record.note(self.name, "its token has expired");
                    if token.is_none() || next.is_none() {
                        self.record.violation(format_args!(
                            "{}: refused as expired, from {token:?} on to {next:?}",
                            self.name
                        ));
                        break false;
                    }
                    if random.random_bool(0.5) {
                        break false;
                    }
                    expired = true;
                    token = next;
                }
                // Any server can go on.
                None => {
                    failures += 1;
                    if failures == MAX_FAILURES {
                        break false;
                    }
                    *server = 1 + *server % self.servers;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let of_one_revision = whole && listing.pages.iter().all(|page| !page.after_expiry);
        let found = of_one_revision.then(|| {
            let items = listing.pages.iter().flat_map(|page| page.items.clone());
            (listing.pages[0].revision, items.collect())
        });
        self.record.lock().listings.push(listing);
        found.filter(|(revision, _)| *revision > 0)
    }

    /// Between two pages.
    async fn dawdle(&self, random: &mut ChaCha8Rng) {
        let pause = if random.random_bool(0.1) {
            self.history.mul_f64(random.random_range(0.0..2.0))
        } else {
            Duration::from_millis(random.random_range(0..20))
        };
        let end = async {
            while self.last_revision.load(Ordering::Relaxed) == u64::MAX {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Either will do.
        tokio::time::timeout(pause, end).await.ok();
    }
}
