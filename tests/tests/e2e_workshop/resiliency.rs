//! The slides' resiliency: timeout, retries, faults, circuit breaker.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::eventually;
use e2e::http::Response;

use crate::workshop::{PATIENCE, Workshop};

fn timed(all: &Workshop, path: &str) -> Result<(Response, Duration)> {
    let begin = Instant::now();
    let response = all.a(path, &[])?;
    Ok((response, begin.elapsed()))
}

/// After five seconds the caller is told that it took too long.
pub fn timeout(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.apply("timeout")?;
    let (took, _) = eventually("the timeout is in force", PATIENCE, || {
        let (response, took) = timed(all, "/call/service-b/delay/7000")?;
        ensure!(response.status == 504, "{response:?} after {took:?}");
        ensure!(
            response.body.contains("upstream request timeout"),
            "{response:?}"
        );
        Ok(took)
    })?;
    ensure!((5.0..6.0).contains(&took.as_secs_f64()), "{took:?}");
    let caller = all.pod("app=service-a")?;
    all.logged(&caller, &["504", "UT"])?;
    Ok(())
}

/// A 503 is tried again three times, and so is a try that took three seconds.
pub fn retries(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.apply("retries")?;
    let server = all.pod("app=hello,version=v1")?;
    let line = "GET /status/503 503 ";
    let seen = || -> Result<usize> {
        let log = all.log(&server, "hello")?;
        Ok(log.lines().filter(|one| one.starts_with(line)).count())
    };
    eventually("the retries are in force", PATIENCE, || {
        let before = seen()?;
        let response = all.a("/call/service-b/status/503", &[])?;
        ensure!(response.status == 503, "{response:?}");
        let mut count = 0;
        eventually("four tries are logged", Duration::from_secs(2), || {
            count = seen()? - before;
            ensure!(count == 4, "{count} tries");
            Ok(())
        })
    })?;
    let caller = all.pod("app=service-a")?;
    all.logged(&caller, &["/status/503", "URX"])?;
    let (response, took) = timed(all, "/call/service-b/delay/20000")?;
    ensure!(response.status == 504, "{response:?}");
    ensure!((12.0..14.5).contains(&took.as_secs_f64()), "{took:?}");
    Ok(())
}

/// Half of the requests are kept for two seconds.
pub fn delay(all: &Workshop) -> Result<()> {
    all.reset()?;
    let said = all.apply("delay")?;
    ensure!(
        said.contains("Warning"),
        "the old spelling is warned of: {said}"
    );
    let delayed = || -> Result<bool> {
        let (response, took) = timed(all, "/call/service-b/")?;
        ensure!(response.status == 200, "{response:?}");
        ensure!(
            took < Duration::from_millis(900) || took >= Duration::from_millis(1990),
            "{took:?} is neither direct nor delayed"
        );
        Ok(took >= Duration::from_millis(1990))
    };
    eventually("the delay is in force", PATIENCE, || {
        ensure!(delayed()?, "not delayed");
        Ok(())
    })?;
    let results = all.at_once(10, 5, delayed)?;
    let count = results.iter().filter(|delayed| **delayed).count();
    println!("workshop: delay: {count} of {}", results.len());
    // Five standard deviations (3.5) around 25.
    ensure!((8..=42).contains(&count), "{count} of {}", results.len());
    all.logged(&all.pod("app=service-a")?, &["200", "DI"])?;
    Ok(())
}

/// Half of the requests are answered 404 without asking the service.
pub fn abort(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.apply("abort")?;
    let status = || Ok(all.a("/call/service-b/", &[])?.status);
    eventually("the abort is in force", PATIENCE, || {
        ensure!(status()? == 404, "not aborted");
        Ok(())
    })?;
    let results = all.many(200, status)?;
    let count = results.iter().filter(|status| **status == 404).count();
    println!("workshop: abort: {count} of {}", results.len());
    ensure!(results.iter().all(|status| matches!(status, 200 | 404)));
    // Five standard deviations (7.1) around 100.
    ensure!((64..=136).contains(&count), "{count} of {}", results.len());
    all.logged(&all.pod("app=service-a")?, &["404", "FI"])?;
    Ok(())
}

/// One connection, one request waiting: whoever comes third is refused at once. One error: the only
/// host is ejected.
pub fn circuit_breaker(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.scale("deployment-v2", 0)?;
    all.scale("deployment-v3", 0)?;
    let run = || -> Result<()> {
        let said = all.apply("circuit-breaker")?;
        for old in ["consecutiveErrors", "tcp", "http"] {
            ensure!(
                said.contains(old),
                "the old spelling {old} is warned of: {said}"
            );
        }
        let caller = all.pod("app=service-a")?;
        let refused = eventually("the breaker is in force", PATIENCE, || {
            let results = all.at_once(5, 1, || all.a("/call/service-b/delay/1000", &[]))?;
            let of = |status: u16| results.iter().filter(|one| one.status == status).count();
            ensure!(of(200) == 2 && of(503) == 3, "{results:?}");
            let refused = results.into_iter().find(|one| one.status == 503);
            refused.ok_or_else(|| anyhow::anyhow!("nobody was refused"))
        })?
        .0;
        ensure!(
            refused.header("x-envoy-overloaded") == Some("true"),
            "{refused:?}"
        );
        all.logged(&caller, &["503", "UO"])?;
        let failed = all.a("/call/service-b/status/503", &[])?;
        ensure!(failed.status == 503, "{failed:?}");
        for _ in 0..5 {
            let response = all.a("/call/service-b/", &[])?;
            ensure!(
                response.status == 503 && response.body.contains("no healthy upstream"),
                "{response:?}"
            );
        }
        all.logged(&caller, &["503", "UH"])?;
        Ok(())
    };
    let result = run();
    all.kubectl
        .ok(&["delete", "destinationrule", "service-b"])?;
    all.scale("deployment-v2", 1)?;
    all.scale("deployment-v3", 1)?;
    result?;
    // Without the rule nobody is ejected any more.
    eventually("everybody answers again", PATIENCE, || {
        let counts = all.versions(40)?;
        ensure!(counts.len() == 3, "{counts:?}");
        Ok(())
    })?;
    Ok(())
}
