//! Deployments: convergence, bounds at every step, rollback, history, pause, resize, deadline.

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};
use trireme_model::kinds;

use trireme_reference::cluster::invariants::{Bounds, within_bounds};
use trireme_reference::cluster::{World, at};

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.add_namespace("default");
    for node in ["n1", "n2", "n3"] {
        world.add_node(node, "64", "64Gi");
    }
    world
}

fn set_image(world: &mut World, image: &str) {
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions
        .into_iter()
        .find(|it| it["type"] == type_)
        .unwrap_or_default()
}

fn images(world: &World) -> Vec<String> {
    let images = world.active_pods().into_iter();
    let mut images: Vec<String> = images
        .map(|pod| {
            pod["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .into()
        })
        .collect();
    images.sort();
    images
}

#[test]
fn a_deployment_comes_up_and_says_so() {
    let mut world = world(1);
    world.add_deployment("web", 3, rolling(json!("25%"), json!("25%")));
    world.settle();
    assert_eq!(world.ready_pods(), 3);
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    let status = &web["status"];
    assert_eq!(status["replicas"], 3);
    assert_eq!(status["updatedReplicas"], 3);
    assert_eq!(status["readyReplicas"], 3);
    assert_eq!(status["availableReplicas"], 3);
    assert_eq!(at(status, "/unavailableReplicas"), Value::Null);
    assert_eq!(status["observedGeneration"], 1);
    assert_eq!(
        condition(web, "Available")["reason"],
        "MinimumReplicasAvailable"
    );
    let progressing = condition(web, "Progressing");
    assert_eq!(progressing["reason"], "NewReplicaSetAvailable");
    let sets = world.all(kinds::REPLICA_SET);
    assert_eq!(sets.len(), 1);
    let name = sets[0]["metadata"]["name"].as_str().unwrap();
    let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
    assert_eq!(progressing["message"], message.as_str());
    assert_eq!(
        web["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    let hash = sets[0]["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(name, format!("web-{hash}"));
    for pod in world.active_pods() {
        assert_eq!(pod["metadata"]["labels"]["pod-template-hash"], hash);
    }
    assert!(world.has_event(
        "ScalingReplicaSet",
        &format!("Scaled up replica set {name} from 0 to 3")
    ));
    world.assert_fixpoint();
}

#[test]
fn a_rollback_takes_the_old_replica_set_up_again_under_a_new_number() {
    let mut world = world(2);
    world.add_deployment("web", 2, rolling(json!(1), json!(0)));
    world.settle();
    set_image(&mut world, "web:2");
    world.settle();
    assert_eq!(images(&world), ["web:2", "web:2"]);
    // `kubectl rollout undo` patches the old template back in.
    set_image(&mut world, "web:1");
    world.settle();
    assert_eq!(images(&world), ["web:1", "web:1"]);
    let sets = world.all(kinds::REPLICA_SET);
    assert_eq!(sets.len(), 2);
    let revision = |set: &Value| {
        let revision = &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
        revision.as_str().unwrap().to_owned()
    };
    let first = sets
        .iter()
        .find(|set| set["spec"]["replicas"] == 2)
        .unwrap();
    assert_eq!(revision(first), "3");
    let history = &first["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"];
    assert_eq!(history, "1");
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    assert_eq!(
        web["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "3"
    );
    assert_eq!(web["status"]["updatedReplicas"], 2);
    assert_eq!(
        condition(web, "Progressing")["reason"],
        "NewReplicaSetAvailable"
    );
    world.assert_fixpoint();
}

#[test]
fn history_beyond_the_limit_is_deleted() {
    let mut world = world(3);
    world.add_deployment("web", 1, rolling(json!(1), json!(0)));
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["revisionHistoryLimit"] = json!(2)
    });
    for version in 1..8 {
        set_image(&mut world, &format!("web:{version}"));
        world.settle();
    }
    let mut revisions: Vec<String> = world
        .all(kinds::REPLICA_SET)
        .into_iter()
        .map(|set| &set["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
        .map(|revision| revision.as_str().unwrap().to_owned())
        .collect();
    revisions.sort();
    assert_eq!(revisions, ["5", "6", "7"]);
    world.assert_fixpoint();
}

#[test]
fn recreate_starts_nothing_while_an_old_pod_runs() {
    let mut world = world(4);
    world.add_deployment("web", 3, json!({"type": "Recreate"}));
    world.settle();
    set_image(&mut world, "web:2");
    world.settle_with(|world| {
        let pods = world.all(kinds::POD);
        let image = |pod: &&&Value| pod["spec"]["containers"][0]["image"] == "web:1";
        let old = pods.iter().filter(image).count();
        assert!(old == 0 || old == pods.len(), "old and new side by side");
    });
    assert_eq!(images(&world), ["web:2"; 3]);
    world.assert_fixpoint();
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = world(5);
    world.add_deployment("web", 2, rolling(json!(1), json!(1)));
    world.settle();
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["paused"] = json!(true);
        it["spec"]["replicas"] = json!(4);
        it["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2");
    });
    world.settle();
    assert_eq!(images(&world), ["web:1"; 4]);
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    assert_eq!(condition(web, "Progressing")["reason"], "DeploymentPaused");
    world.assert_fixpoint();
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["paused"] = json!(false)
    });
    world.settle();
    assert_eq!(images(&world), ["web:2"; 4]);
    world.assert_fixpoint();
}

#[test]
fn a_resize_in_the_middle_of_a_rollout_is_shared() {
    let mut world = world(6);
    world.add_deployment("web", 10, rolling(json!(3), json!(2)));
    world.settle();
    world.pods_get_ready = false;
    set_image(&mut world, "web:bad");
    world.settle();
    let sizes = |world: &World| {
        let mut sizes: Vec<i64> = world
            .all(kinds::REPLICA_SET)
            .iter()
            .map(|set| set["spec"]["replicas"].as_i64().unwrap())
            .collect();
        sizes.sort();
        sizes
    };
    assert_eq!(sizes(&world), [5, 8]);
    world.edit(kinds::DEPLOYMENT, "web", |it| {
        it["spec"]["replicas"] = json!(20)
    });
    world.settle();
    // 23 pods at most, shared as 8 to 5 were.
    assert_eq!(sizes(&world), [9, 14]);
    world.pods_get_ready = true;
    world.settle();
    assert_eq!(images(&world), ["web:bad"; 20]);
    world.assert_fixpoint();
}

#[test]
fn no_progress_within_the_deadline_is_reported() {
    let mut world = world(7);
    world.add_deployment("web", 1, rolling(json!(1), json!(0)));
    world.settle();
    world.pods_get_ready = false;
    set_image(&mut world, "web:bad");
    world.settle();
    world.pass(SignedDuration::from_secs(590));
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    assert_eq!(condition(web, "Progressing")["status"], "True");
    world.pass(SignedDuration::from_secs(15));
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    let progressing = condition(web, "Progressing");
    assert_eq!(progressing["status"], "False");
    assert_eq!(progressing["reason"], "ProgressDeadlineExceeded");
    assert_eq!(web["status"]["availableReplicas"], 1);
    world.assert_fixpoint();
}

#[test]
fn a_name_taken_by_another_template_is_counted_as_a_collision() {
    let mut first = world(8);
    first.add_deployment("web", 1, rolling(json!(1), json!(0)));
    first.settle();
    let mut taken = first.all(kinds::REPLICA_SET)[0].clone();
    let mut world = world(8);
    taken["metadata"] =
        json!({"name": taken["metadata"]["name"], "namespace": "default", "labels": {"x": "y"}});
    taken["spec"]["replicas"] = json!(0);
    taken["spec"]["selector"] = json!({"matchLabels": {"x": "y"}});
    taken["spec"]["template"]["metadata"]["labels"] = json!({"x": "y"});
    world.create(kinds::REPLICA_SET, taken).unwrap();
    world.add_deployment("web", 1, rolling(json!(1), json!(0)));
    world.settle();
    assert_eq!(world.ready_pods(), 1);
    let web = world.get(kinds::DEPLOYMENT, "default", "web").unwrap();
    assert_eq!(web["status"]["collisionCount"], 1);
    world.assert_fixpoint();
}

/// At one moment.
fn check_bounds(world: &World, replicas: i64, surge: i64, unavailable: i64) {
    let bounds = Bounds {
        replicas,
        surge,
        unavailable,
    };
    assert_eq!(within_bounds(world, "web", bounds), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// With lagging views, refused writes and new leaders in the middle of plans, a rollout of
    /// healthy pods stays within its bounds at every step, converges, and then writes nothing.
    #[test]
    fn rollouts_stay_within_bounds(
        seed in any::<u64>(),
        replicas in 1i64..9,
        surge in 0i64..4,
        unavailable in 0i64..4,
        crashes in 0usize..4,
        versions in 1usize..4,
    ) {
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        let mut world = world(seed);
        world.add_deployment("web", replicas as i32, rolling(json!(surge), json!(unavailable)));
        world.settle();
        prop_assert_eq!(world.ready_pods() as i64, replicas);
        let unavailable = unavailable.min(replicas);
        for version in 0..versions {
            set_image(&mut world, &format!("web:v{version}"));
            // The next version arrives while this one still rolls, now and then with a new leader.
            let steps = world.random(200);
            for _ in 0..steps {
                world.step();
                check_bounds(&world, replicas, surge, unavailable);
            }
            if version < crashes {
                world.crash();
                check_bounds(&world, replicas, surge, unavailable);
            }
        }
        world.settle_with(|world| check_bounds(world, replicas, surge, unavailable));
        let last = format!("web:v{}", versions - 1);
        prop_assert!(images(&world).iter().all(|image| *image == last));
        prop_assert_eq!(world.ready_pods() as i64, replicas);
        world.assert_fixpoint();
    }
}
