//! TLS begun by the proxy, ended by it, and passed through by name.

use serde_json::{Value, json};

use crate::case::{Case, Observation, Stand};
use crate::client::Request;
use crate::client::http2::{Connection, send_http1};
use crate::place::Place;
use crate::shape::{Resources, any_host, cluster, http, http2, inspecting, merged, tcp, to, typed};
use crate::tls;

const GROUP: &str = "tls";
const SOCKET: &str = "envoy.transport_sockets.tls";

/// A cluster's TLS; `settings` is merged into it.
fn upstream(authority_pem: &str, settings: Value) -> Value {
    let base = json!({
        "sni": "a.oracle.test",
        "common_tls_context": { "validation_context": {
            "trusted_ca": { "inline_string": authority_pem },
            "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "a.oracle.test" } }],
        } },
    });
    let context = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        merged(base, settings),
    );
    json!({ "transport_socket": { "name": SOCKET, "typed_config": context } })
}

fn origination(name: &str, authority: fn() -> String, settings: Value, extra: Value) -> Case {
    managed(name, authority, settings, extra, json!({}))
}

/// The same with settings of the connection manager.
fn managed(
    name: &str,
    authority: fn() -> String,
    settings: Value,
    extra: Value,
    manager: Value,
) -> Case {
    Case::exchanges(
        GROUP,
        format!("begun: {name}"),
        1,
        move |place| Resources {
            listeners: vec![http(
                place,
                any_host(json!([to(place, "a", json!({}))])),
                vec![],
                manager.clone(),
            )],
            clusters: vec![cluster(
                place,
                "a",
                &place.hosts,
                merged(upstream(&authority(), settings.clone()), extra.clone()),
            )],
            ..Resources::default()
        },
        vec![
            Request::get("/"),
            Request::get("/").method("POST").body("x"),
        ],
    )
}

/// A chain for names, to one of the case's clusters.
fn chain(place: &Place, names: &[&str], to: &str) -> Value {
    let whole = tcp(place, json!({ "cluster": place.cluster(to) }));
    let mut chain = whole["filter_chains"][0].clone();
    if !names.is_empty() {
        chain["filter_chain_match"] = json!({ "server_names": names });
    }
    chain
}

/// By which server a client that names `name` is answered.
async fn by_name(stand: &Stand, number: usize, name: &str) -> anyhow::Result<Value> {
    let request = Request::get("/").header("x-key", &stand.key(number));
    let Ok(stream) = tls::connect(stand.place.listener, name, &["http/1.1"]).await else {
        return Ok(json!({ "name": name, "answer": "closed" }));
    };
    let answer = send_http1(stream, &request).await?;
    Ok(json!({ "name": name, "answer": answer.json(), "upstream": stand.seen(number) }))
}

fn passed_through(name: &'static str, default: bool) -> Case {
    Case::new(
        GROUP,
        name,
        3,
        move |place| {
            let mut chains = vec![
                chain(place, &["a.oracle.test"], "a"),
                chain(place, &["*.oracle.test"], "b"),
            ];
            if default {
                chains.push(chain(place, &[], "c"));
            }
            Resources {
                listeners: vec![inspecting(place, chains.into())],
                clusters: ["a", "b", "c"]
                    .iter()
                    .zip(&place.hosts)
                    .map(|(name, host)| cluster(place, name, &[*host], json!({})))
                    .collect(),
                ..Resources::default()
            }
        },
        |stand| async move {
            let mut list = Vec::new();
            let names = [
                "a.oracle.test",
                "b.oracle.test",
                "A.Oracle.Test",
                "oracle.test",
            ];
            for (number, name) in names.iter().enumerate() {
                list.push(by_name(&stand, number, name).await?);
            }
            Ok(Observation {
                exact: list.into(),
                ..Observation::default()
            })
        },
    )
}

/// Ended by the proxy; what the client offers decides on the protocol.
fn ended() -> Case {
    Case::new(
        GROUP,
        "ended, by what the client offers",
        1,
        |place| {
            let identity = tls::identity();
            let context = typed(
                "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                json!({ "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{
                        "certificate_chain": { "inline_string": identity.certificate_pem },
                        "private_key": { "inline_string": identity.key_pem },
                    }],
                } }),
            );
            let mut listener = http(
                place,
                any_host(json!([to(place, "a", json!({}))])),
                vec![],
                json!({}),
            );
            listener["filter_chains"][0]["transport_socket"] =
                json!({ "name": SOCKET, "typed_config": context });
            Resources {
                listeners: vec![listener],
                clusters: vec![cluster(place, "a", &place.hosts, json!({}))],
                ..Resources::default()
            }
        },
        |stand| async move {
            let mut list = Vec::new();
            let offers: [&[&str]; 4] = [&["h2", "http/1.1"], &["http/1.1"], &[], &["h2"]];
            for (number, offer) in offers.iter().enumerate() {
                let stream = tls::connect(stand.place.listener, "oracle.test", offer).await?;
                let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                let request = Request::get("/").header("x-key", &stand.key(number));
                let response = if chosen.as_deref() == Some(b"h2") {
                    Connection::over(stream).await?.send(&request).await?
                } else {
                    send_http1(stream, &request).await?
                };
                list.push(json!({
                    "offered": offer,
                    "chosen": chosen.map(|name| String::from_utf8_lossy(&name).into_owned()),
                    "response": response.json(),
                    "upstream": stand.seen(number),
                    "log": stand.log(number).await?,
                }));
            }
            Ok(Observation {
                exact: list.into(),
                ..Observation::default()
            })
        },
    )
}

pub fn cases() -> Vec<Case> {
    let own = || tls::identity().authority_pem.clone();
    let strange = || tls::strange_authority().unwrap_or_default();
    let alpn = |names: Value| json!({ "common_tls_context": { "alpn_protocols": names } });
    let other_name = json!({ "common_tls_context": { "validation_context": {
        "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": "c.oracle.test" } }],
    } } });
    vec![
        origination("HTTP/1.1", own, json!({}), json!({})),
        origination("HTTP/2", own, alpn(json!(["h2"])), http2()),
        managed(
            "HTTP/2, the scheme is the upstream's",
            own,
            alpn(json!(["h2"])),
            http2(),
            json!({ "scheme_header_transformation": { "match_upstream": true } }),
        ),
        managed(
            "HTTP/2, the scheme is overwritten",
            own,
            alpn(json!(["h2"])),
            http2(),
            json!({ "scheme_header_transformation": { "scheme_to_overwrite": "https" } }),
        ),
        origination("without a name", own, json!({ "sni": null }), json!({})),
        origination(
            "with the request's own name",
            own,
            json!({ "sni": "b.oracle.test" }),
            json!({}),
        ),
        origination(
            "by an authority that is not trusted",
            strange,
            json!({}),
            json!({}),
        ),
        origination(
            "of another name than is asked for",
            own,
            other_name,
            json!({}),
        ),
        passed_through("passed through by name", false),
        passed_through("passed through, the rest elsewhere", true),
        ended(),
    ]
}
