//! Bad input, end to end: by both stock kubectls, and raw over HTTPS where kubectl would not send it or
//! would not show the answer. Each case gets Kubernetes' own code, reason and field, and changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::certificate::Authority;
use e2e::kubectl::VERSIONS;
use e2e::rest::Credential;
use e2e::{Cluster, Kubectl, Rest, eventually};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Over the limit of 1.5 MiB.
const BIG_BYTES: usize = 1_700_000;
/// Kept short, so that a version expires while the test waits.
const HISTORY: (&str, &str) = ("TRIREME_HISTORY_SECONDS", "3");

/// What became of each case.
struct Table {
    rest: Rest,
    collections: Vec<String>,
    rows: Vec<(String, String, String)>,
    wrong: Vec<String>,
}

impl Table {
    /// Makes sure that the case was refused as it should be, and that every object is as it was.
    fn case(
        &mut self,
        client: &str,
        name: &str,
        case: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let before = versions(&self.rest, &self.collections)?;
        let refused = case();
        let after = versions(&self.rest, &self.collections)?;
        let seen = match refused {
            Ok(seen) => seen,
            Err(error) => {
                self.wrong.push(format!("{client}, {name}: {error:#}"));
                "WRONG".to_owned()
            }
        };
        if before != after {
            let changed: Vec<_> = after
                .iter()
                .filter(|(key, version)| before.get(*key) != Some(*version))
                .collect();
            self.wrong
                .push(format!("{client}, {name}: changed {changed:?}"));
        }
        self.rows.push((client.to_owned(), name.to_owned(), seen));
        Ok(())
    }

    /// What kept a group of cases from its end is one fault among the others.
    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            self.wrong.push(format!("{error:#}"));
        }
    }

    fn finish(self) -> Result<()> {
        println!("{:<14} {:<44} refused with", "client", "case");
        for (client, name, seen) in &self.rows {
            println!("{client:<14} {name:<44} {seen}");
        }
        println!("{} cases, {} wrong", self.rows.len(), self.wrong.len());
        ensure!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        Ok(())
    }
}

/// Every collection that can be listed, but those that the cluster itself writes all the time.
fn collections(rest: &Rest) -> Result<Vec<String>> {
    let groups = rest.get_all(&["/apis".to_owned()])?.remove(0);
    let mut paths = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().context("groups")? {
        for version in group["versions"].as_array().context("versions")? {
            let version = version["groupVersion"].as_str().context("a version")?;
            paths.push(format!("/apis/{version}"));
        }
    }
    let mut collections = Vec::new();
    for (path, list) in paths.iter().zip(rest.get_all(&paths)?) {
        for resource in list["resources"].as_array().context("resources")? {
            let listed = resource["verbs"]
                .as_array()
                .is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
            let name = resource["name"].as_str().context("a name")?;
            // Heartbeats, and what nodes tell of themselves.
            if listed && !matches!(name, "leases" | "nodes" | "events") {
                collections.push(format!("{path}/{name}"));
            }
        }
    }
    Ok(collections)
}

/// The version of every object.
fn versions(rest: &Rest, collections: &[String]) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for (collection, list) in collections.iter().zip(rest.get_all(collections)?) {
        for item in list["items"].as_array().context("a list")? {
            let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
            let key = format!("{collection}/{}/{}", text("namespace"), text("name"));
            versions.insert(key, text("resourceVersion").to_owned());
        }
    }
    Ok(versions)
}

#[test]
fn bad_input_is_refused_as_kubernetes_does_and_changes_nothing() -> Result<()> {
    let cluster = Cluster::up_with(
        &["--servers", "1", "--nodes", "1", "--no-sample"],
        &[HISTORY],
    )?;
    let all = || -> Result<()> {
        let kubectl = cluster.kubectl(VERSIONS[1])?;
        let rest = Rest::of_kubeconfig(kubectl.kubeconfig(), cluster.scratch())?;
        eventually("the default service account", PATIENCE, || {
            kubectl.ok(&["get", "serviceaccount", "default"])
        })?;
        kubectl.ok(&["create", "configmap", "there", "--from-literal=key=one"])?;
        let mut table = Table {
            collections: collections(&rest)?,
            rest: rest.clone(),
            rows: Vec::new(),
            wrong: Vec::new(),
        };
        let stale = kubectl.ok(&["get", "configmap", "there", "-o", "json"])?;
        kubectl.ok(&["label", "configmap", "there", "step=two"])?;
        for version in VERSIONS {
            let by = by_kubectl(&mut table, &cluster.kubectl(version)?, version, &stale);
            table.note(by);
        }
        let done = raw(&mut table, &rest, &stale);
        table.note(done);
        let done = certificates(&mut table, &cluster, &rest);
        table.note(done);
        let done = expired(&mut table, &cluster, &rest, &stale);
        table.note(done);
        table.finish()?;
        unresolvable(&kubectl)
    };
    all().with_context(|| cluster.logs())?;
    cluster.down()
}

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: bad}
spec:
  replicas: 2
  selector: {matchLabels: {app: bad}}
  template:
    metadata: {labels: {app: bad}}
    spec: {containers: [{name: main, image: trireme.local/hello}]}
";

fn pod(name: &str, container: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  \
         - {{name: main, image: trireme.local/hello{container}}}\n{rest}"
    )
}

/// What kubectl says; the older and the newer word some of it themselves.
fn by_kubectl(table: &mut Table, kubectl: &Kubectl, version: &str, stale: &str) -> Result<()> {
    let older = version == VERSIONS[0];
    let pick = |one: &'static str, other: &'static str| if older { one } else { other };
    let client = format!("kubectl {version}");
    let unknown_field = DEPLOYMENT.replace("image:", "imag:");
    let wrong_type = DEPLOYMENT.replace("replicas: 2", "replicas: two");
    let bad_name = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_Good}\n";
    let bad_label = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: l, labels: {a: 'b c'}}\n";
    let no_match = DEPLOYMENT.replace("matchLabels: {app: bad}", "matchLabels: {app: other}");
    let no_volume = pod("m", ", volumeMounts: [{name: nothing, mountPath: /x}]", "");
    let no_image = pod("m", "", "").replace(", image: trireme.local/hello", "");
    let bad_port = pod("m", ", ports: [{containerPort: 70000}]", "");
    let bad_memory = pod("m", ", resources: {limits: {memory: lots}}", "");
    let too_big = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{key: {}}}\n",
        "x".repeat(BIG_BYTES)
    );
    let create: &[&str] = &["create", "-f", "-"];
    let apply: &[&str] = &["apply", "-f", "-"];
    let unchecked: &[&str] = &["create", "--validate=false", "-f", "-"];
    let cases: Vec<(&str, &[&str], &str, Vec<&str>)> = vec![
        (
            "malformed YAML",
            apply,
            "a: [b\nc: }",
            vec!["error converting YAML to JSON: yaml: line"],
        ),
        (
            "malformed JSON",
            create,
            "{\"apiVersion\": \"v1\", \"kind\": ",
            vec!["unexpected EOF"],
        ),
        (
            "unknown field",
            apply,
            &unknown_field,
            vec![pick(
                "ValidationError(Deployment.spec.template.spec.containers[0]): unknown field \"imag\"",
                "strict decoding error: unknown field \"spec.template.spec.containers[0].imag\"",
            )],
        ),
        (
            "wrong type",
            create,
            &wrong_type,
            vec![pick(
                "invalid type for io.k8s.api.apps.v1.DeploymentSpec.replicas: got \"string\", expected \"integer\"",
                "(BadRequest): error when creating \"STDIN\": Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            )],
        ),
        (
            "wrong type, unchecked by the client",
            unchecked,
            &wrong_type,
            vec!["(BadRequest)", "spec.replicas of type int32"],
        ),
        (
            "bad name",
            create,
            bad_name,
            vec![
                "The ConfigMap \"Not_Good\" is invalid: metadata.name: Invalid value: \"Not_Good\": a lowercase RFC 1123 subdomain",
            ],
        ),
        (
            "bad label",
            create,
            bad_label,
            vec!["metadata.labels: Invalid value: \"b c\""],
        ),
        (
            "missing namespace",
            &["-n", "nowhere", "create", "-f", "-"],
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
            vec!["(NotFound)", "namespaces \"nowhere\" not found"],
        ),
        (
            "conflicting resourceVersion",
            &["replace", "-f", "-"],
            stale,
            vec![
                "(Conflict): error when replacing \"STDIN\": Operation cannot be fulfilled on configmaps \"there\": the object has been modified; please apply your changes to the latest version and try again",
            ],
        ),
        (
            "oversized object",
            create,
            &too_big,
            vec!["(RequestEntityTooLarge)", "limit is 1572864"],
        ),
        (
            "mount of a volume that is not named",
            create,
            &no_volume,
            vec![
                "The Pod \"m\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"nothing\"",
            ],
        ),
        (
            "selector that does not match",
            create,
            &no_match,
            vec![
                "spec.template.metadata.labels: Invalid value",
                "`selector` does not match template `labels`",
            ],
        ),
        (
            "container without an image",
            unchecked,
            &no_image,
            vec!["spec.containers[0].image: Required value"],
        ),
        (
            "port out of range",
            create,
            &bad_port,
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "quantity that is none",
            create,
            &bad_memory,
            vec![
                "(BadRequest)",
                "quantities must match the regular expression",
            ],
        ),
        (
            "existing name",
            create,
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: there}\n",
            vec!["(AlreadyExists)", "configmaps \"there\" already exists"],
        ),
    ];
    for (name, arguments, input, wanted) in cases {
        table.case(&client, name, || {
            let output = kubectl.with_input(arguments, input)?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "it was taken");
            for wanted in &wanted {
                ensure!(text.contains(wanted), "{wanted:?} is not in {text:?}");
            }
            Ok(shown(&text))
        })?;
    }
    let by_arguments: [(&str, &[&str], &str); 4] = [
        (
            "absent object",
            &["get", "configmap", "gone"],
            "(NotFound): configmaps \"gone\" not found",
        ),
        (
            "deletion of what is absent",
            &["delete", "deployment", "gone"],
            "(NotFound): deployments.apps \"gone\" not found",
        ),
        (
            "selector of a field that has none",
            &["get", "pods", "--field-selector", "spec.nothing=x"],
            "(BadRequest)",
        ),
        (
            "permanent namespace",
            &["delete", "namespace", "kube-system"],
            "(Forbidden): namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
        ),
    ];
    for (name, arguments, wanted) in by_arguments {
        table.case(&client, name, || {
            let text = kubectl.fails(arguments)?;
            ensure!(text.contains(wanted), "{wanted:?} is not in {text:?}");
            Ok(shown(&text))
        })?;
    }
    Ok(())
}

/// The first line, as much of it as a table holds.
fn shown(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(150).collect()
}

/// What a refusal must say: code, reason, part of the message, and the field among its causes.
struct Refusal {
    code: u16,
    reason: &'static str,
    message: &'static str,
    field: &'static str,
}

const fn refusal(code: u16, reason: &'static str, message: &'static str) -> Refusal {
    Refusal {
        code,
        reason,
        message,
        field: "",
    }
}

const fn invalid(field: &'static str, message: &'static str) -> Refusal {
    Refusal {
        field,
        ..refusal(422, "Invalid", message)
    }
}

fn check(answer: &e2e::rest::Answer, wanted: &Refusal) -> Result<String> {
    let status = answer.json()?;
    let seen = format!("{} {} {}", answer.code, status["reason"], status["message"]);
    let right = answer.code == wanted.code
        && status["kind"] == "Status"
        && status["status"] == "Failure"
        && status["code"] == wanted.code
        && status["reason"] == wanted.reason
        && status["message"]
            .as_str()
            .is_some_and(|message| message.contains(wanted.message));
    let named = wanted.field.is_empty()
        || status["details"]["causes"]
            .as_array()
            .is_some_and(|causes| causes.iter().any(|cause| cause["field"] == wanted.field));
    ensure!(right && named, "answered {}: {status}", answer.code);
    Ok(shown(&seen))
}

fn raw(table: &mut Table, rest: &Rest, stale: &str) -> Result<()> {
    const JSON: &str = "application/json";
    const YAML: &str = "application/yaml";
    const MERGE: &str = "application/merge-patch+json";
    let strict = |path: &str| format!("{path}?fieldValidation=Strict");
    let deployment = |change: &dyn Fn(&mut Value)| -> String {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "bad"}}, "template": {
                "metadata": {"labels": {"app": "bad"}},
                "spec": {"containers": [{"name": "main", "image": "x"}]}}}});
        change(&mut object);
        object.to_string()
    };
    let config_map = |name: &str, value: &str| -> String {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
            .to_string()
    };
    let there = format!("{CONFIG_MAPS}/there");
    let big = "x".repeat(BIG_BYTES);
    let volume = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "m"}, "spec": {"containers": [
        {"name": "main", "image": "x", "volumeMounts": [{"name": "nothing", "mountPath": "/x"}]}]}});
    let cases: Vec<(&str, &str, String, &str, String, Refusal)> = vec![
        ("malformed JSON", "POST", CONFIG_MAPS.into(), JSON, "{\"a\": ".into(),
            refusal(400, "BadRequest", "json parse error")),
        ("malformed YAML", "POST", CONFIG_MAPS.into(), YAML, "a: [b".into(),
            refusal(400, "BadRequest", "yaml")),
        ("not an object", "POST", CONFIG_MAPS.into(), JSON, "[1]".into(),
            refusal(400, "BadRequest", "")),
        ("media type that is none", "POST", CONFIG_MAPS.into(), "text/plain", "x".into(),
            refusal(415, "UnsupportedMediaType", "application/json")),
        ("unknown field", "POST", strict(DEPLOYMENTS), JSON,
            deployment(&|it| it["spec"]["template"]["spec"]["containers"][0]["imag"] = "y".into()),
            refusal(400, "BadRequest", "unknown field \"spec.template.spec.containers[0].imag\"")),
        ("unknown field in YAML", "POST", strict(CONFIG_MAPS), YAML,
            "metadata: {name: x}\ndatum: {a: b}\n".into(),
            refusal(400, "BadRequest", "strict decoding error: unknown field \"datum\"")),
        ("wrong type", "POST", DEPLOYMENTS.into(), JSON,
            deployment(&|it| it["spec"]["replicas"] = "two".into()),
            refusal(400, "BadRequest", "spec.replicas of type int32")),
        ("bad name", "POST", CONFIG_MAPS.into(), JSON, config_map("Not_Good", "x"),
            invalid("metadata.name", "metadata.name: Invalid value: \"Not_Good\"")),
        ("missing namespace", "POST", "/api/v1/namespaces/nowhere/configmaps".into(), JSON, config_map("x", "x"),
            refusal(404, "NotFound", "namespaces \"nowhere\" not found")),
        ("conflicting resourceVersion", "PUT", there.clone(), JSON, stale.into(),
            refusal(409, "Conflict", "Operation cannot be fulfilled on configmaps \"there\": the object has been modified")),
        ("conflicting resourceVersion in a patch", "PATCH", there.clone(), MERGE,
            "{\"metadata\": {\"resourceVersion\": \"1\"}, \"data\": {\"key\": \"two\"}}".into(),
            refusal(409, "Conflict", "the object has been modified")),
        ("conflicting resourceVersion in a deletion", "DELETE", there.clone(), JSON,
            "{\"kind\": \"DeleteOptions\", \"apiVersion\": \"v1\", \"preconditions\": {\"resourceVersion\": \"1\"}}".into(),
            refusal(409, "Conflict", "Precondition failed")),
        ("oversized object", "POST", CONFIG_MAPS.into(), JSON, config_map("big", &big),
            refusal(413, "RequestEntityTooLarge", "limit is 1572864")),
        ("mount of a volume that is not named", "POST", PODS.into(), JSON, volume.to_string(),
            invalid("spec.containers[0].volumeMounts[0].name", "Not found: \"nothing\"")),
        ("negative replicas", "POST", DEPLOYMENTS.into(), JSON,
            deployment(&|it| it["spec"]["replicas"] = (-1).into()),
            invalid("spec.replicas", "must be greater than or equal to 0")),
        ("absent object", "PUT", format!("{CONFIG_MAPS}/gone"), JSON, config_map("gone", "x"),
            refusal(404, "NotFound", "configmaps \"gone\" not found")),
        ("lease without its version", "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1".into(), JSON,
            json!({"metadata": {"name": "node-1"}, "spec": {"holderIdentity": "thief"}}).to_string(),
            invalid("metadata.resourceVersion", "must be specified for an update")),
        ("method that is none", "PUT", CONFIG_MAPS.into(), JSON, config_map("x", "x"),
            refusal(405, "MethodNotAllowed", "")),
        ("unknown resource", "POST", "/api/v1/namespaces/default/widgets".into(), JSON, "{}".into(),
            refusal(404, "NotFound", "could not find the requested resource")),
        ("dry run of something else", "POST", format!("{CONFIG_MAPS}?dryRun=Some"), JSON, config_map("x", "x"),
            refusal(422, "Invalid", "dryRun")),
    ];
    for (name, method, path, media_type, body, wanted) in cases {
        table.case("HTTPS", name, || {
            check(
                &rest.send(method, &path, media_type, body.as_bytes())?,
                &wanted,
            )
        })?;
    }
    // A ConfigMap may also grow beyond its own limit by a patch that is within it.
    let half = json!({"data": {"other": "y".repeat(BIG_BYTES / 2)}}).to_string();
    let answer = rest.send("PATCH", &there, MERGE, half.as_bytes())?;
    ensure!(answer.code == 200, "half is taken: {}", answer.text);
    let other = json!({"data": {"third": "z".repeat(BIG_BYTES / 2)}}).to_string();
    table.case("HTTPS", "object that a patch makes too large", || {
        let answer = rest.send("PATCH", &there, MERGE, other.as_bytes())?;
        check(
            &answer,
            &refusal(
                422,
                "Invalid",
                "Too long: may not be more than 1048576 bytes",
            ),
        )
    })
}

/// Who may not: another authority's certificate, an expired one, one without rights, none, a forged token.
fn certificates(table: &mut Table, cluster: &Cluster, rest: &Rest) -> Result<()> {
    let scratch = cluster.scratch();
    let own = Authority::of_server(&cluster.data().join("server-1"))?;
    let body = json!({"metadata": {"name": "stolen"}}).to_string();
    let refused_by_tls = [
        (
            "certificate of another authority",
            Authority::unknown()?.issue("stranger", false, scratch)?,
            "unknown ca",
        ),
        (
            "expired certificate",
            own.issue("yesterday", true, scratch)?,
            "certificate expired",
        ),
    ];
    for (name, credential, alert) in refused_by_tls {
        let rest = rest.with(credential);
        table.case("HTTPS", name, || {
            let Err(error) = rest.send("POST", CONFIG_MAPS, "application/json", body.as_bytes())
            else {
                anyhow::bail!("the handshake succeeded");
            };
            let text = format!("{error:#}");
            ensure!(text.contains(alert), "{alert:?} is not in {text:?}");
            Ok(shown(&text))
        })?;
    }
    let answered = [
        (
            "certificate without rights",
            own.issue("eve", false, scratch)?,
            refusal(
                403,
                "Forbidden",
                "configmaps is forbidden: User \"eve\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"",
            ),
        ),
        (
            "no certificate",
            Credential::None,
            refusal(401, "Unauthorized", "Unauthorized"),
        ),
        (
            "forged token",
            Credential::Token("eyJhbGciOiJFUzI1NiJ9.e30.AAAA".to_owned()),
            refusal(401, "Unauthorized", "Unauthorized"),
        ),
    ];
    for (name, credential, wanted) in answered {
        let rest = rest.with(credential);
        table.case("HTTPS", name, || {
            let answer = rest.send("POST", CONFIG_MAPS, "application/json", body.as_bytes())?;
            check(&answer, &wanted)
        })?;
    }
    // The other way round: a client that trusts another authority says nothing to this server.
    let other = scratch.join("another-authority.pem");
    std::fs::write(&other, Authority::unknown()?.certificate_pem())?;
    for version in VERSIONS {
        let kubectl = cluster.kubectl(version)?;
        let arguments = [
            "--certificate-authority",
            other.to_str().context("a path that is text")?,
            "create",
            "configmap",
            "stolen",
        ];
        table.case(
            &format!("kubectl {version}"),
            "server of another authority",
            || {
                let text = kubectl.fails(&arguments)?;
                ensure!(text.contains("x509: "), "{text}");
                Ok(shown(text.lines().last().unwrap_or_default()))
            },
        )?;
    }
    Ok(())
}

/// A version that has been compacted: an error within the watch's stream, and an answer to an exact list.
fn expired(table: &mut Table, cluster: &Cluster, rest: &Rest, stale: &str) -> Result<()> {
    let stale: Value = serde_json::from_str(stale)?;
    let old = stale["metadata"]["resourceVersion"]
        .as_str()
        .context("a version")?;
    let exact = format!("{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    eventually("the version expires", PATIENCE, || {
        // Compaction follows writes.
        rest.send(
            "PATCH",
            &format!("{CONFIG_MAPS}/there"),
            "application/merge-patch+json",
            b"{\"metadata\": {\"labels\": {\"tick\": null}}}",
        )?;
        let answer = rest.send("GET", &exact, "", b"")?;
        ensure!(answer.code == 410, "still {}", answer.code);
        Ok(())
    })?;
    let wanted = refusal(410, "Expired", "too old resource version: ");
    table.case("HTTPS", "exact list of an expired version", || {
        check(&rest.send("GET", &exact, "", b"")?, &wanted)
    })?;
    let watch = format!("{CONFIG_MAPS}?watch=true&resourceVersion={old}&timeoutSeconds=5");
    let event = |text: &str| -> Result<String> {
        let event: Value = serde_json::from_str(text.lines().next().context("no event")?)?;
        let status = &event["object"];
        ensure!(
            event["type"] == "ERROR"
                && status["kind"] == "Status"
                && status["code"] == 410
                && status["reason"] == "Expired"
                && status["message"]
                    .as_str()
                    .is_some_and(|message| message.starts_with("too old resource version: ")),
            "{text}"
        );
        Ok(shown(&format!("ERROR 410 {}", status["message"])))
    };
    table.case("HTTPS", "watch from an expired version", || {
        let answer = rest.send("GET", &watch, "", b"")?;
        ensure!(answer.code == 200, "{}", answer.code);
        event(&answer.text)
    })?;
    for version in VERSIONS {
        let kubectl = cluster.kubectl(version)?;
        table.case(
            &format!("kubectl {version}"),
            "watch from an expired version",
            || event(&kubectl.ok(&["get", "--raw", &watch])?),
        )?;
    }
    Ok(())
}

/// Pods that cannot start say why, and start once they can.
fn unresolvable(kubectl: &Kubectl) -> Result<()> {
    let mount = ", volumeMounts: [{name: v, mountPath: /v}]";
    let of_config_map = pod(
        "of-config-map",
        mount,
        "  volumes: [{name: v, configMap: {name: missing}}]\n",
    );
    let of_secret = pod(
        "of-secret",
        mount,
        "  volumes: [{name: v, secret: {secretName: missing}}]\n",
    );
    let of_variable = pod(
        "of-variable",
        ", env: [{name: A, valueFrom: {configMapKeyRef: {name: missing, key: a}}}]",
        "",
    );
    // A port that nobody listens on; what a registry says of a wrong password is in e2e_pods.
    let of_image = pod("of-image", "", "").replace("trireme.local/hello", "127.0.0.1:9/none:v1");
    for manifest in [&of_config_map, &of_secret, &of_variable, &of_image] {
        kubectl.apply(manifest)?;
    }
    let waits = [
        (
            "of-config-map",
            vec!["ContainerCreating"],
            "FailedMount",
            "MountVolume.SetUp failed for volume \"v\" : configmap \"missing\" not found",
        ),
        (
            "of-secret",
            vec!["ContainerCreating"],
            "FailedMount",
            "MountVolume.SetUp failed for volume \"v\" : secret \"missing\" not found",
        ),
        (
            "of-variable",
            vec!["CreateContainerConfigError"],
            "Failed",
            "Error: configmap \"missing\" not found",
        ),
        (
            "of-image",
            vec!["ErrImagePull", "ImagePullBackOff"],
            "Failed",
            "refused",
        ),
    ];
    for (name, shown, reason, message) in waits {
        eventually(&format!("{name} says why it waits"), PATIENCE, || {
            let line = kubectl.ok(&["get", "pod", name, "--no-headers"])?;
            let status = line.split_whitespace().nth(2).unwrap_or_default();
            ensure!(shown.contains(&status), "{line}");
            let selector = format!("involvedObject.name={name},type=Warning,reason={reason}");
            let events = kubectl.json(&["get", "events", "--field-selector", &selector])?;
            let told = events["items"].as_array().is_some_and(|events| {
                events.iter().any(|event| {
                    event["message"]
                        .as_str()
                        .is_some_and(|text| text.to_lowercase().contains(&message.to_lowercase()))
                })
            });
            ensure!(told, "{events}");
            println!("pod {name:<14} {status}: {message}");
            Ok(())
        })?;
    }
    kubectl.ok(&["create", "configmap", "missing", "--from-literal=a=b"])?;
    kubectl.ok(&[
        "create",
        "secret",
        "generic",
        "missing",
        "--from-literal=a=b",
    ])?;
    for name in ["of-config-map", "of-secret", "of-variable"] {
        let pod = format!("pod/{name}");
        kubectl.ok(&["wait", "--for=condition=Ready", "--timeout=90s", &pod])?;
    }
    Ok(())
}
