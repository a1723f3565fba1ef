//! The workshop: what its slides show of traffic management and resiliency, by stock kubectl, on a
//! cluster of `trireme up`; two services, the second in three versions, from the built-in image.
//! The manifests are in `tests/workshop/`.

mod egress;
mod lifecycle;
mod resiliency;
mod telemetry;
mod traffic;
mod workshop;

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::{Cluster, Outside, Registry};
use workshop::Workshop;

/// Every name below it is the machine outside.
const ZONE: &str = "example";

#[test]
fn the_slides_work_by_kubectl_apply() -> Result<()> {
    let outside = Outside::start(61, ZONE)?;
    let registry = Registry::start(61, None)?;
    let busybox = registry.push_busybox("busybox", "v1", None)?;
    let registries = registry.scratch_file(
        "registries.yaml",
        &format!(
            "mirrors:\n  \"{0}\":\n    endpoint: [\"http://{0}\"]\n",
            registry.host()
        ),
    )?;
    let (registries, resolv_conf) = (registries.display().to_string(), outside.resolv_conf()?);
    let resolv_conf = resolv_conf.display().to_string();
    let arguments = [
        "--servers",
        "1",
        "--nodes",
        "2",
        "--no-sample",
        "--registries",
        &registries,
        "--resolv-conf",
        &resolv_conf,
    ];
    let cluster = Cluster::up(&arguments)?;
    let mut workshop = Workshop::open(cluster)?;
    workshop.prepare()?;
    let mut failures = Vec::new();
    {
        let mut part = |name: &str, run: &mut dyn FnMut() -> Result<()>| {
            let begin = Instant::now();
            let result = run();
            let seconds = begin.elapsed().as_secs_f64();
            match result {
                Ok(()) => println!("workshop: {name}: {seconds:.1} s"),
                Err(error) => {
                    println!("workshop: {name}: FAILED after {seconds:.1} s: {error:#}");
                    failures.push(format!("{name}: {error:#}"));
                }
            }
        };
        let all = &workshop;
        part("injection", &mut || lifecycle::injection(all));
        part("gateway", &mut || traffic::gateway(all));
        part("split", &mut || traffic::split(all));
        part("subsets and headers", &mut || traffic::subsets(all));
        part("routes to nowhere", &mut || traffic::nowhere(all));
        part("timeout", &mut || resiliency::timeout(all));
        part("retries", &mut || resiliency::retries(all));
        part("delay", &mut || resiliency::delay(all));
        part("abort", &mut || resiliency::abort(all));
        part("circuit breaker", &mut || resiliency::circuit_breaker(all));
        part("service entry", &mut || {
            egress::service_entry(all, &outside)
        });
        part("sidecar", &mut || egress::sidecar(all));
        part("telemetry", &mut || telemetry::metrics_and_logs(all));
        part("explain", &mut || telemetry::explain(all));
        part("job", &mut || lifecycle::job(all, &busybox));
        part("proxy crash", &mut || lifecycle::proxy_crash(all));
        part("swap under load", &mut || lifecycle::swap_under_load(all));
        let mut loss = || lifecycle::control_plane_loss(&mut workshop, &arguments);
        part("control plane loss", &mut loss);
    }
    ensure!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        workshop.cluster.logs()
    );
    workshop.cluster.down()
}
