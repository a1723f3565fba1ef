//! The slides' traffic management: gateway, split, subsets, header routes.

use anyhow::{Context as _, Result, ensure};
use e2e::eventually;

use crate::workshop::{CHI_SQUARED_BOUND, HOST, PATIENCE, Workshop, chi_squared, version_in};

/// A Gateway and a VirtualService lead a host name to service-a; other names lead nowhere.
pub fn gateway(all: &Workshop) -> Result<()> {
    all.apply("gateway")?;
    let (response, _) = eventually("the gateway leads to service-a", PATIENCE, || {
        let response = all.enter(HOST, "/", &[])?;
        ensure!(response.status == 200, "{response:?}");
        Ok(response)
    })?;
    ensure!(
        response.body.contains("hello from service-a-"),
        "{response:?}"
    );
    version_in(&response.body)?;
    let unknown = all.enter("other.example.com", "/", &[])?;
    ensure!(unknown.status == 404, "{unknown:?}");
    Ok(())
}

/// 98 to 2 and 30 to 70 between two subsets; the third version gets nothing.
pub fn split(all: &Workshop) -> Result<()> {
    all.reset()?;
    for (name, first, requests) in [("split-98-2", 0.98, 1000), ("split-30-70", 0.30, 500)] {
        all.apply(name)?;
        // In force once so many answers in a row fit: before, the third version answers a third of
        // all, or the other split's share is far off.
        eventually(&format!("{name} is in force"), PATIENCE, || {
            let counts = all.versions(40)?;
            let of = |version: &str| counts.get(version).copied().unwrap_or(0);
            let fits = if first > 0.5 {
                of("v1") >= 32
            } else {
                of("v2") >= 16
            };
            ensure!(of("v3") == 0 && fits, "{counts:?}");
            Ok(())
        })?;
        let counts = all.versions(requests)?;
        let of = |version: &str| counts.get(version).copied().unwrap_or(0);
        let distance = chi_squared(&[(of("v1"), first), (of("v2"), 1.0 - first)]);
        println!("workshop: {name}: {counts:?}, chi-squared {distance:.2}");
        ensure!(
            of("v3") == 0 && distance < CHI_SQUARED_BOUND,
            "{name}: {counts:?}, chi-squared {distance:.2}"
        );
    }
    Ok(())
}

/// Subsets by the labels env and owner; routes by headers and path.
pub fn subsets(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.apply("subsets")?;
    eventually("the routes are in force", PATIENCE, || {
        for _ in 0..10 {
            let version = all.version(&[("end-user", "peterj")])?;
            ensure!(version == "v3", "{version}");
        }
        Ok(())
    })?;
    for (headers, wanted) in [
        (vec![("end-user", "peterj")], "v3"),
        (vec![("end-user", "peter")], "v1"),
        (vec![("x-group", "test-7")], "v2"),
        (vec![("x-group", "test-")], "v1"),
        (vec![("end-user", "peterj"), ("x-group", "test-7")], "v3"),
        (vec![], "v1"),
    ] {
        for _ in 0..10 {
            let version = all.version(&headers)?;
            ensure!(version == wanted, "{headers:?}: {version}, not {wanted}");
        }
    }
    let response = all.a("/call/service-b/status/418", &[])?;
    ensure!(
        response.status == 418 && version_in(&response.body)? == "v2",
        "{response:?}"
    );
    Ok(())
}

/// What leads nowhere says so: at once to who writes it, in its status as long as it lasts, and in an event.
pub fn nowhere(all: &Workshop) -> Result<()> {
    all.reset()?;
    let said = all.apply("nowhere")?;
    ensure!(
        said.contains("Warning") && said.contains("ghost"),
        "kubectl passes a warning on: {said}"
    );
    let get = ["get", "virtualservice", "service-b"];
    let condition = || -> Result<(String, String)> {
        let object = all.kubectl.json(&get)?;
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let found = conditions.find(|it| it["type"] == "ResolvedRefs");
        let found = found.with_context(|| format!("no condition: {}", object["status"]))?;
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("message")))
    };
    eventually("its condition names both", PATIENCE, || {
        let (status, message) = condition()?;
        ensure!(
            status == "False" && message.contains("ghost") && message.contains("none"),
            "{status}: {message}"
        );
        Ok(())
    })?;
    let events = [
        "get",
        "events",
        "--field-selector",
        "involvedObject.name=service-b,involvedObject.kind=VirtualService",
    ];
    eventually("an event says so", PATIENCE, || {
        let events = all.kubectl.ok(&events)?;
        ensure!(
            events.contains("Warning") && events.contains("ghost"),
            "{events}"
        );
        Ok(())
    })?;
    all.apply("split-30-70")?;
    eventually("its condition turns", PATIENCE, || {
        let (status, message) = condition()?;
        ensure!(status == "True", "{status}: {message}");
        Ok(())
    })
    .map(drop)
}
