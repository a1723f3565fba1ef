//! What the proxies tell, and what the operator is told.

use anyhow::{Context, Result, ensure};
use e2e::eventually;

use crate::workshop::{PATIENCE, Workshop};

/// Istio's request metrics on both sides, and a line for every request.
pub fn metrics_and_logs(all: &Workshop) -> Result<()> {
    all.reset()?;
    let (caller, server) = (all.pod("app=service-a")?, all.pod("app=hello,version=v1")?);
    eventually("both sides have counted", PATIENCE, || {
        all.versions(10)?;
        for (pod, reporter) in [(&caller, "source"), (&server, "destination")] {
            let text = all.metrics(pod)?;
            let mut lines = text.lines();
            let line = lines.find(|line| {
                line.starts_with("istio_requests_total{")
                    && line.contains(&format!("reporter=\"{reporter}\""))
                    && line.contains("destination_service=\"service-b.default.svc.cluster.local\"")
                    && line.contains("response_code=\"200\"")
            });
            let line = line.with_context(|| {
                let found: Vec<&str> = text
                    .lines()
                    .filter(|l| l.contains("istio_requests"))
                    .collect();
                format!("{reporter}: {}", found.join("\n"))
            })?;
            for label in [
                "source_workload=\"service-a\"",
                "destination_workload=\"deployment-v",
                "source_workload_namespace=\"default\"",
                "destination_service_name=\"service-b\"",
                "request_protocol=\"http\"",
                "response_flags=\"-\"",
            ] {
                ensure!(line.contains(label), "{label} is not in {line}");
            }
        }
        Ok(())
    })?;
    let text = all.metrics(&caller)?;
    for name in [
        "istio_request_duration_milliseconds_bucket{",
        "istio_request_bytes_sum{",
        "istio_response_bytes_count{",
    ] {
        ensure!(text.contains(name), "{name} is not there");
    }
    let line = all.logged(
        &caller,
        &[
            "GET /",
            " 200 ",
            "outbound|80||service-b.default.svc.cluster.local",
        ],
    )?;
    ensure!(line.starts_with('['), "Envoy's format: {line}");
    all.logged(&server, &["GET /", " 200 ", "inbound|8080||"])?;
    Ok(())
}

/// `trireme mesh status` and `trireme explain route` name proxies and objects.
pub fn explain(all: &Workshop) -> Result<()> {
    all.reset()?;
    all.apply("subsets")?;
    let pod = all.pod("app=service-a")?;
    let status = all.trireme(&["mesh", "status"])?;
    for name in [&pod.name, "istio-ingressgateway"] {
        ensure!(status.contains(name), "{name} is not in {status}");
    }
    eventually("the route is explained", PATIENCE, || {
        let text = all.trireme(&[
            "explain",
            "route",
            "--from",
            "deploy/service-a",
            "--to",
            "http://service-b/",
            "-H",
            "end-user:peterj",
        ])?;
        for word in ["service-b", "dev-peterj", "virtual"] {
            ensure!(
                text.to_lowercase().contains(word),
                "{word} is not in {text}"
            );
        }
        Ok(())
    })?;
    Ok(())
}
