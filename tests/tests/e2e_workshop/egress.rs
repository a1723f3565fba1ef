//! Services outside the mesh, and what a workload may see.

use anyhow::{Result, ensure};
use e2e::{Outside, eventually};

use crate::workshop::{PATIENCE, Workshop};

fn answers(all: &Workshop, path: &str, status: u16) -> Result<String> {
    let what = format!("{path} is answered {status}");
    let (body, _) = eventually(&what, PATIENCE, || {
        let response = all.a(path, &[])?;
        ensure!(response.status == status, "{response:?}");
        Ok(response.body)
    })?;
    Ok(body)
}

/// Anything outside may be called, then only what a ServiceEntry names.
pub fn service_entry(all: &Workshop, outside: &Outside) -> Result<()> {
    let body = answers(all, "/call/other.example/", 200)?;
    ensure!(body == "outside as other.example\n", "{body}");
    all.apply("registry-only")?;
    answers(all, "/call/other.example/", 502)?;
    answers(all, "/call/api.movies.example/", 502)?;
    let before = outside.answered();
    for _ in 0..10 {
        all.a("/call/other.example/", &[])?;
    }
    ensure!(outside.answered() == before, "nothing reaches the outside");
    all.apply("service-entry")?;
    let body = answers(all, "/call/api.movies.example/", 200)?;
    ensure!(body == "outside as api.movies.example\n", "{body}");
    answers(all, "/call/other.example/", 502)?;
    all.kubectl.ok(&["delete", "serviceentry", "movie-db"])?;
    answers(all, "/call/api.movies.example/", 502)?;
    all.apply("allow-any")?;
    answers(all, "/call/other.example/", 200)?;
    Ok(())
}

/// The Sidecar kind takes a namespace's services out of scope.
pub fn sidecar(all: &Workshop) -> Result<()> {
    all.apply("prod-apis")?;
    all.rolled_out("prod-apis", "prices")?;
    all.apply("registry-only")?;
    let path = "/call/prices.prod-apis/";
    answers(all, path, 200)?;
    all.apply("sidecar")?;
    answers(all, path, 502)?;
    answers(all, "/call/service-b/", 200)?;
    all.kubectl.ok(&["delete", "sidecar", "default"])?;
    answers(all, path, 200)?;
    all.apply("allow-any")?;
    all.kubectl.ok(&["delete", "namespace", "prod-apis"])?;
    Ok(())
}
