//! Who may do what.

use serde_json::{Value, json};
use trireme_api::{Identity, NODES};

use crate::cluster::{CONFIG_MAPS, Cluster, PODS, admin, config_map, pod};

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";

fn user(name: &str) -> Identity {
    Identity::new(name, [""; 0])
}

fn bind(name: &str, role_kind: &str, role: &str, user: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })
}

#[tokio::test]
async fn a_binding_grants_at_once_and_its_deletion_takes_away() {
    let cluster = Cluster::start().await;
    let eve = user("eve");
    cluster.as_user(&eve, "GET", PODS, Value::Null).await.refused(
        403,
        "Forbidden",
        "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    cluster
        .call("POST", BINDINGS, bind("eve", "ClusterRole", "view", "eve"))
        .await
        .ok();
    cluster.as_user(&eve, "GET", PODS, Value::Null).await.ok();
    cluster
        .as_user(&eve, "GET", "/api/v1/pods", Value::Null)
        .await
        .refused(403, "Forbidden", "at the cluster scope");
    cluster.as_user(&eve, "GET", "/api/v1/namespaces/default/secrets/x", Value::Null).await.refused(
        403,
        "Forbidden",
        "secrets \"x\" is forbidden: User \"eve\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\"",
    );
    cluster.as_user(&eve, "POST", PODS, pod("a")).await.refused(
        403,
        "Forbidden",
        "cannot create resource \"pods\"",
    );
    cluster
        .call("DELETE", &format!("{BINDINGS}/eve"), Value::Null)
        .await
        .ok();
    cluster
        .as_user(&eve, "GET", PODS, Value::Null)
        .await
        .refused(403, "Forbidden", "");
    // Everyone who is someone finds out what there is.
    cluster
        .as_user(&eve, "GET", "/apis", Value::Null)
        .await
        .ok();
    cluster
        .as_user(&eve, "GET", "/metrics", Value::Null)
        .await
        .refused(403, "Forbidden", "cannot get path \"/metrics\"");
}

#[tokio::test]
async fn nobody_grants_what_he_has_not() {
    let cluster = Cluster::start().await;
    let boss = user("boss");
    cluster
        .call(
            "POST",
            BINDINGS,
            bind("boss", "ClusterRole", "admin", "boss"),
        )
        .await
        .ok();
    let role = |resources: Value| {
        json!({"metadata": {"name": "r"}, "rules": [
        {"verbs": ["get"], "apiGroups": [""], "resources": resources}]})
    };
    cluster
        .as_user(&boss, "POST", ROLES, role(json!(["nodes"])))
        .await
        .refused(
            403,
            "Forbidden",
            "is attempting to grant RBAC permissions not currently held",
        );
    cluster
        .as_user(&boss, "POST", ROLES, role(json!(["pods"])))
        .await
        .ok();
    cluster
        .as_user(&boss, "POST", BINDINGS, bind("b", "Role", "r", "eve"))
        .await
        .ok();
    cluster
        .as_user(
            &boss,
            "POST",
            BINDINGS,
            bind("c", "ClusterRole", "cluster-admin", "boss"),
        )
        .await
        .refused(403, "Forbidden", "not currently held");
}

#[tokio::test]
async fn a_node_reaches_its_own_and_what_its_pods_use() {
    let cluster = Cluster::start().await;
    let node = Identity::new("system:node:n1", [NODES]);
    let as_node = |name: &str| json!({"metadata": {"name": name}});
    cluster
        .as_user(&node, "POST", "/api/v1/nodes", as_node("n1"))
        .await
        .ok();
    cluster
        .as_user(&node, "POST", "/api/v1/nodes", as_node("n2"))
        .await
        .refused(403, "Forbidden", "not allowed to create");
    cluster
        .call("POST", "/api/v1/nodes", as_node("n2"))
        .await
        .ok();
    let status = json!({"status": {"nodeInfo": {"kubeletVersion": "v1"}}});
    let patch = async |name: &str, body: &Value| {
        let path = format!("/api/v1/nodes/{name}/status");
        let headers = [("content-type", "application/merge-patch+json")];
        cluster
            .send(
                Some(node.clone()),
                "PATCH",
                &path,
                &headers,
                body.to_string(),
            )
            .await
    };
    patch("n1", &status).await.ok();
    patch("n2", &status).await.refused(403, "Forbidden", "");

    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"k": "v"}});
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.call("POST", secrets, secret("used")).await.ok();
    cluster.call("POST", secrets, secret("other")).await.ok();
    let mut mine = pod("mine");
    mine["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "used"}}]);
    cluster.call("POST", PODS, mine).await.ok();
    cluster
        .as_user(&node, "GET", &format!("{secrets}/used"), Value::Null)
        .await
        .refused(403, "Forbidden", "");
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    cluster
        .call("POST", &format!("{PODS}/mine/binding"), binding)
        .await
        .ok();
    cluster
        .as_user(&node, "GET", &format!("{secrets}/used"), Value::Null)
        .await
        .ok();
    cluster
        .as_user(&node, "GET", &format!("{secrets}/other"), Value::Null)
        .await
        .refused(403, "Forbidden", "");
    cluster
        .as_user(&node, "GET", secrets, Value::Null)
        .await
        .refused(403, "Forbidden", "");

    cluster
        .as_user(
            &node,
            "GET",
            "/api/v1/pods?fieldSelector=spec.nodeName=n1",
            Value::Null,
        )
        .await
        .ok();
    cluster
        .as_user(&node, "GET", "/api/v1/pods", Value::Null)
        .await
        .refused(403, "Forbidden", "");
    cluster.call("POST", PODS, pod("theirs")).await.ok();
    let running = json!({"status": {"phase": "Running"}});
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{PODS}/mine/status");
    cluster
        .send(
            Some(node.clone()),
            "PATCH",
            &path,
            &headers,
            running.to_string(),
        )
        .await
        .ok();
    let path = format!("{PODS}/theirs/status");
    cluster
        .send(
            Some(node.clone()),
            "PATCH",
            &path,
            &headers,
            running.to_string(),
        )
        .await
        .refused(403, "Forbidden", "");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    cluster
        .as_user(&node, "POST", leases, as_node("n1"))
        .await
        .ok();
    cluster
        .as_user(&node, "POST", leases, as_node("n2"))
        .await
        .refused(403, "Forbidden", "");
    cluster
        .as_user(&node, "DELETE", "/api/v1/nodes/n1", Value::Null)
        .await
        .refused(403, "Forbidden", "");
}

#[tokio::test]
async fn reviews_answer_what_is_allowed() {
    let cluster = Cluster::start().await;
    let eve = user("eve");
    cluster
        .call("POST", BINDINGS, bind("eve", "ClusterRole", "view", "eve"))
        .await
        .ok();
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let ask = |verb: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}});
    let answer = cluster.as_user(&eve, "POST", reviews, ask("list")).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.body["status"]["allowed"], true);
    assert!(
        answer.body["status"]["reason"]
            .as_str()
            .unwrap()
            .contains("RoleBinding \"eve/default\"")
    );
    assert_eq!(
        cluster
            .as_user(&eve, "POST", reviews, ask("delete"))
            .await
            .ok()["status"]["allowed"],
        false
    );
    let of_eve = json!({"spec": {"user": "eve", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    let all = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(
        cluster.call("POST", all, of_eve.clone()).await.ok()["status"]["allowed"],
        true
    );
    cluster.as_user(&eve, "POST", all, of_eve).await.refused(
        403,
        "Forbidden",
        "subjectaccessreviews",
    );
    let rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let rules = cluster
        .as_user(
            &eve,
            "POST",
            rules,
            json!({"spec": {"namespace": "default"}}),
        )
        .await
        .ok();
    assert!(rules["status"]["resourceRules"].as_array().unwrap().len() > 3);
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = cluster.as_user(&eve, "POST", who, json!({})).await.ok();
    assert_eq!(who["status"]["userInfo"]["username"], "eve");
    assert_eq!(
        who["status"]["userInfo"]["groups"],
        json!(["system:authenticated"])
    );
}

#[tokio::test]
async fn impersonation_needs_its_verb() {
    let cluster = Cluster::start().await;
    let as_eve = [("impersonate-user", "eve")];
    cluster
        .send(Some(admin()), "GET", PODS, &as_eve, "")
        .await
        .refused(403, "Forbidden", "User \"eve\"");
    cluster
        .send(
            Some(user("eve")),
            "GET",
            PODS,
            &[("impersonate-user", "admin")],
            "",
        )
        .await
        .refused(
            403,
            "Forbidden",
            "users \"admin\" is forbidden: User \"eve\" cannot impersonate resource \"users\"",
        );
}

#[tokio::test]
async fn a_service_account_token_is_an_identity_while_the_account_lives() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster
        .call("POST", accounts, json!({"metadata": {"name": "robot"}}))
        .await
        .ok();
    let wanted = json!({"spec": {"audiences": [], "expirationSeconds": 3600}});
    let answer = cluster
        .call("POST", &format!("{accounts}/robot/token"), wanted)
        .await;
    assert_eq!(answer.code, 201);
    let token = answer.body["status"]["token"].as_str().unwrap().to_owned();
    let mut binding = bind("robot", "ClusterRole", "edit", "");
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]);
    cluster.call("POST", BINDINGS, binding).await.ok();
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    cluster
        .send(
            None,
            "POST",
            CONFIG_MAPS,
            &headers,
            config_map("a", "1").to_string(),
        )
        .await
        .ok();
    let forged = format!("{bearer}x");
    cluster
        .send(None, "GET", CONFIG_MAPS, &[("authorization", &forged)], "")
        .await
        .refused(401, "Unauthorized", "");
    let short = json!({"spec": {"expirationSeconds": 5}});
    cluster
        .call("POST", &format!("{accounts}/robot/token"), short)
        .await
        .refused(422, "Invalid", "10 minutes");
    cluster
        .call("DELETE", &format!("{accounts}/robot"), Value::Null)
        .await
        .ok();
    cluster
        .send(None, "GET", CONFIG_MAPS, &headers, "")
        .await
        .refused(401, "Unauthorized", "");
}

#[tokio::test]
async fn only_who_may_do_everything_may_aggregate() {
    let cluster = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let cluster_bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let manager = json!({"metadata": {"name": "manager"}, "rules": [
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "update"]}]});
    cluster.call("POST", roles, manager).await.ok();
    cluster
        .call(
            "POST",
            cluster_bindings,
            bind("m", "ClusterRole", "manager", "eve"),
        )
        .await
        .ok();
    let role = json!({"metadata": {"name": "gathers"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    cluster
        .as_user(&user("eve"), "POST", roles, role.clone())
        .await
        .refused(
            403,
            "Forbidden",
            "must have cluster-admin privileges to use an aggregationRule",
        );
    cluster.call("POST", roles, role).await.ok();
}

#[tokio::test]
async fn bootstrap_is_done_once() {
    let cluster = Cluster::start().await;
    let before = cluster.replica.revision();
    cluster.api.ensure_bootstrap().await.unwrap();
    assert_eq!(cluster.replica.revision(), before);
    let service = cluster
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await
        .ok();
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    let slice = cluster
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await
        .ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
    assert_eq!(slice["ports"][0]["port"], 6443);
    cluster
        .api
        .publish_servers(&[
            "192.0.2.1:6443".parse().unwrap(),
            "192.0.2.2:6443".parse().unwrap(),
        ])
        .await
        .unwrap();
    let slice = cluster
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await
        .ok();
    assert_eq!(slice["endpoints"].as_array().unwrap().len(), 2);
    for role in trireme_api::bootstrap_objects() {
        assert!(!role["metadata"]["name"].as_str().unwrap().is_empty());
    }
}
