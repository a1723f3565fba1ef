//! Balancers: sequences and tables as Envoy's, proportions, health.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::rand_core::RngCore;
use trireme_proxy_decide::Nanos;
use trireme_proxy_decide::balance::{Choice, Edf, PriorityLoads, View};
use trireme_proxy_decide::config::{
    Cluster, ClusterKind, CommonLb, Endpoint, EndpointHealth, Endpoints, HashFunction, Labels,
    LbPolicy, LeastRequest, Locality, LocalityEndpoints, LocalityLb, Maglev, PanicThreshold,
    RingHash, SlowStart, SubsetFallback, SubsetLb, SubsetSelector,
};
use trireme_proxy_decide::upstream::{ActiveRequest, ClusterState, Members};

use crate::world::{address, cluster, endpoints, rng};

/// The weights of the golden run: eight backends at 127.0.0.1:19301 and on.
const WEIGHTS: [u32; 8] = [1, 2, 3, 4, 1, 1, 5, 1];

fn golden(lb: LbPolicy, weights: &[u32]) -> ClusterState {
    let labels = Arc::new(Labels::default());
    let mut all = Endpoints::new("golden");
    all.localities.push(LocalityEndpoints {
        endpoints: weights
            .iter()
            .zip(19_301u16..)
            .map(|(weight, port)| Endpoint {
                weight: *weight,
                ..Endpoint::new(SocketAddr::from(([127, 0, 0, 1], port)), labels.clone())
            })
            .collect(),
        ..LocalityEndpoints::default()
    });
    state(Cluster {
        lb,
        endpoints: Some(Arc::new(all)),
        ..Cluster::new("golden", ClusterKind::Static)
    })
}

fn state(config: Cluster) -> ClusterState {
    let endpoints = config.endpoints.clone();
    ClusterState::new(Arc::new(config), endpoints, None, Nanos::ZERO)
}

fn ring(minimum: u64, hash_function: HashFunction) -> LbPolicy {
    LbPolicy::RingHash(RingHash {
        minimum_ring_size: minimum,
        hash_function,
        ..RingHash::default()
    })
}

/// The hosts that a real Envoy 1.40 chose for `x-key: key-0` to `key-47`.
#[test]
fn rings_and_tables_are_envoys() {
    let cases: [(&str, LbPolicy, [u32; 8], &str); 6] = [
        (
            "ring",
            ring(1024, HashFunction::XxHash),
            [1; 8],
            "206062272560357171766221534517076214077363111257",
        ),
        (
            "weighted ring",
            ring(512, HashFunction::XxHash),
            WEIGHTS,
            "526666272261367133366221533513666634335663367277",
        ),
        (
            "maglev",
            LbPolicy::Maglev(Maglev::default()),
            [1; 8],
            "201015315342100756516112102125170605710661465335",
        ),
        (
            "weighted maglev",
            LbPolicy::Maglev(Maglev::default()),
            WEIGHTS,
            "261116315362126736216162102125170636713661366335",
        ),
        (
            "small maglev",
            LbPolicy::Maglev(Maglev { table_size: 31 }),
            [1; 8],
            "451256035656271652263232154542164311751626024231",
        ),
        (
            "murmur",
            ring(1024, HashFunction::MurmurHash2),
            [1; 8],
            "337537633014163340153337714415173750371116125156",
        ),
    ];
    for (name, policy, weights, expected) in cases {
        let cluster = golden(policy, &weights);
        let mut rng = rng(1);
        let chosen: String = (0..48)
            .map(|index| {
                let hash = twox(&format!("key-{index}"));
                let host = cluster
                    .choose(
                        &Choice {
                            hash: Some(hash),
                            ..Choice::default()
                        },
                        Nanos::ZERO,
                        &mut rng,
                    )
                    .expect("a host");
                char::from(b'0' + u8::try_from(host.address.port() - 19_301).expect("small"))
            })
            .collect();
        assert_eq!(chosen, expected, "{name}");
    }
}

fn twox(text: &str) -> u64 {
    twox_hash::XxHash64::oneshot(0, text.as_bytes())
}

/// Whether at every moment each host has had its share of the turns, but for three: turns due at
/// once come in any order, which rounding decides in Envoy too.
fn is_even(sequence: &str) -> bool {
    let sum: u32 = WEIGHTS.iter().sum();
    let mut turns = [0u32; 8];
    sequence.bytes().zip(1u32..).all(|(host, taken)| {
        turns[usize::from(host - b'0')] += 1;
        turns.iter().zip(WEIGHTS).all(|(own, weight)| {
            let due = f64::from(taken) * f64::from(weight) / f64::from(sum);
            (f64::from(*own) - due).abs() < 3.0
        })
    })
}

/// Eighteen requests in a cycle; only where it begins is random.
#[test]
fn weighted_round_robin_is_envoys() {
    // What a real Envoy 1.40 repeated, and what no schedule would.
    assert!(is_even(&"136236045712366326".repeat(4)));
    assert!(!is_even("666662333322110457"));
    for seed in 0..20 {
        let cluster = golden(LbPolicy::RoundRobin { slow_start: None }, &WEIGHTS);
        let mut rng = rng(seed);
        let chosen: String = (0..72)
            .map(|_| {
                let host = cluster
                    .choose(&Choice::default(), Nanos::ZERO, &mut rng)
                    .expect("a host");
                char::from(b'0' + u8::try_from(host.address.port() - 19_301).expect("small"))
            })
            .collect();
        assert!(is_even(&chosen), "{chosen}");
    }
}

/// DESIGN §6: weights 3 and 1 give AAAB.
#[test]
fn edf_gives_aaab() {
    let weights = [3.0, 1.0];
    let mut edf = Edf::new(weights.into_iter());
    let sequence: String = (0..40)
        .filter_map(|_| edf.next(|index| weights[index as usize]))
        .map(|index| if index == 0 { 'A' } else { 'B' })
        .collect();
    // Thirds do not add up exactly, in Envoy's arithmetic neither, so B's place among four moves.
    assert!(sequence.starts_with("AABA"), "{sequence}");
    for four in sequence.as_bytes().chunks(4) {
        let others = four.iter().filter(|turn| **turn == b'B').count();
        assert_eq!(others, 1, "{sequence}");
    }
}

proptest! {
    /// Over any whole number of cycles each entry gets exactly its share, and at no point is it
    /// more than two turns away from it.
    #[test]
    fn edf_keeps_proportions(weights in prop::collection::vec(1u32..20, 1..8)) {
        let sum: u32 = weights.iter().sum();
        let mut edf = Edf::new(weights.iter().map(|weight| f64::from(*weight)));
        let mut counts = vec![0u32; weights.len()];
        for turn in 1..=sum * 3 {
            let index = edf.next(|index| f64::from(weights[index as usize])).expect("never empty");
            counts[index as usize] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(turn) * f64::from(*weight) / f64::from(sum);
                prop_assert!((f64::from(*count) - due).abs() <= weights.len() as f64 + 1.0);
            }
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!(count.abs_diff(weight * 3) <= 1, "{counts:?} for {weights:?}");
        }
    }

    /// Beginning later is beginning and taking the turns, but for the order of equal deadlines.
    #[test]
    fn edf_may_begin_anywhere(weights in prop::collection::vec(1u32..20, 1..8), turns in 0u64..500) {
        let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
        let sum = weights.iter().sum::<f64>() as u64;
        let mut late = Edf::after(&weights, turns);
        let mut counts = vec![0u64; weights.len()];
        for _ in 0..sum * 2 {
            counts[late.next(|index| weights[index as usize]).expect("never empty") as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert!(count.abs_diff(*weight as u64 * 2) <= 1, "{counts:?} for {weights:?}");
        }
    }

    /// Loads always sum to a hundred where anything is there, and only fall on what is available.
    #[test]
    fn loads_are_whole(priorities in prop::collection::vec((0usize..5, 0usize..5, 0usize..5), 1..5)) {
        let members = members(&priorities);
        let view = View::new(&members, &CommonLb::default());
        let sum: u32 = view.loads.healthy.iter().chain(&view.loads.degraded).sum();
        prop_assert_eq!(sum, 100);
        if !view.panic.iter().all(|panic| *panic) {
            for (priority, load) in view.loads.healthy.iter().enumerate() {
                prop_assert!(*load == 0 || view.health[priority] > 0);
            }
        }
    }

    /// Where there is any host and panic is on, a request gets one.
    #[test]
    fn panic_always_finds_a_host(
        priorities in prop::collection::vec((0usize..3, 0usize..3, 0usize..3), 1..4),
        seed: u64,
    ) {
        let config = with_health(&priorities);
        let hosts: usize = priorities.iter().map(|(h, d, u)| h + d + u).sum();
        let cluster = state(config);
        let chosen = cluster.choose(&Choice::default(), Nanos::ZERO, &mut rng(seed));
        prop_assert_eq!(chosen.is_some(), hosts > 0);
    }

    /// Taking one host away moves only what was its own (and a little, by the ring's scale).
    #[test]
    fn rings_are_stable(gone in 1u8..20, keys in prop::collection::vec(any::<u64>(), 200)) {
        let all = ring_of(&(1..=20).collect::<Vec<u8>>());
        let fewer = ring_of(&(1..=20).filter(|n| *n != gone).collect::<Vec<u8>>());
        let mut moved = 0;
        for key in &keys {
            let choice = Choice { hash: Some(*key), ..Choice::default() };
            let before = all.choose(&choice, Nanos::ZERO, &mut rng(0)).expect("a host").address;
            let after = fewer.choose(&choice, Nanos::ZERO, &mut rng(0)).expect("a host").address;
            if before != address(gone) && before != after {
                moved += 1;
            }
        }
        prop_assert!(moved <= keys.len() / 10, "{} of {} moved", moved, keys.len());
    }
}

fn ring_of(hosts: &[u8]) -> ClusterState {
    let labels = Arc::new(Labels::default());
    let mut all = Endpoints::new("ring");
    all.localities.push(LocalityEndpoints {
        endpoints: hosts
            .iter()
            .map(|n| Endpoint::new(address(*n), labels.clone()))
            .collect(),
        ..LocalityEndpoints::default()
    });
    state(Cluster {
        lb: ring(1024, HashFunction::XxHash),
        endpoints: Some(Arc::new(all)),
        ..Cluster::new("ring", ClusterKind::Static)
    })
}

fn with_health(priorities: &[(usize, usize, usize)]) -> Cluster {
    let labels = Arc::new(Labels::default());
    let mut all = Endpoints::new("health");
    let mut number = 0u16;
    for (priority, (healthy, degraded, unhealthy)) in priorities.iter().enumerate() {
        let mut group = LocalityEndpoints {
            priority: u32::try_from(priority).expect("few"),
            ..LocalityEndpoints::default()
        };
        for (count, health) in [
            (healthy, EndpointHealth::Healthy),
            (degraded, EndpointHealth::Degraded),
            (unhealthy, EndpointHealth::Unhealthy),
        ] {
            for _ in 0..*count {
                number += 1;
                group.endpoints.push(Endpoint {
                    health,
                    ..Endpoint::new(SocketAddr::from(([10, 0, 1, 1], number)), labels.clone())
                });
            }
        }
        all.localities.push(group);
    }
    Cluster {
        endpoints: Some(Arc::new(all)),
        ..Cluster::new("health", ClusterKind::Static)
    }
}

fn members(priorities: &[(usize, usize, usize)]) -> Members {
    let config = with_health(priorities);
    Members::new(config.endpoints.as_ref().expect("given"), None, Nanos::ZERO)
}

fn loads(healthy: &[u32], degraded: &[u32]) -> PriorityLoads {
    PriorityLoads {
        healthy: healthy.to_vec(),
        degraded: degraded.to_vec(),
    }
}

/// The table of Envoy's documentation of priority levels, with overprovisioning 1.4.
#[test]
fn priorities_share_load_as_documented() {
    let hundred = |healthy: usize| (healthy, 0, 100 - healthy);
    for (first, second, expected) in [
        (100, 100, [100, 0]),
        (72, 72, [100, 0]),
        (71, 71, [99, 1]),
        (50, 50, [70, 30]),
        (25, 100, [35, 65]),
        (25, 25, [50, 50]),
    ] {
        let view = View::new(
            &members(&[hundred(first), hundred(second)]),
            &CommonLb::default(),
        );
        assert_eq!(
            view.loads,
            loads(&expected, &[0, 0]),
            "P0 {first}%, P1 {second}%"
        );
    }
    let mixed = View::new(&members(&[(25, 0, 75), (25, 0, 75)]), &CommonLb::default());
    assert_eq!(mixed.health, [35, 35]);
}

#[test]
fn panic_needs_both_too_few_and_not_enough_elsewhere() {
    let view = |threshold: f64, hosts: &[(usize, usize, usize)]| {
        View::new(
            &members(hosts),
            &CommonLb {
                panic_threshold: PanicThreshold { percent: threshold },
                ..CommonLb::default()
            },
        )
    };
    assert_eq!(view(50.0, &[(4, 0, 6)]).panic, [true]);
    assert_eq!(view(50.0, &[(5, 0, 5)]).panic, [false]);
    // 72 % healthy is enough with overprovisioning: never panic, whatever the threshold.
    assert_eq!(view(90.0, &[(75, 0, 25)]).panic, [false]);
    // The second priority makes up for the first.
    assert_eq!(view(50.0, &[(1, 0, 9), (10, 0, 0)]).panic, [false, false]);
    // Zero disables panic.
    assert_eq!(view(0.0, &[(0, 0, 10)]).panic, [false]);
    assert_eq!(view(0.0, &[(0, 0, 10)]).loads, loads(&[0], &[0]));
    // All down: by the number of hosts.
    assert_eq!(
        view(50.0, &[(0, 0, 3), (0, 0, 1)]).loads,
        loads(&[75, 25], &[0, 0])
    );
}

/// The five-percent critical values of chi-squared, by degrees of freedom less one.
const CHI_SQUARED_1_PERCENT: [f64; 8] = [6.63, 9.21, 11.34, 13.28, 15.09, 16.81, 18.48, 20.09];

fn chi_squared(observed: &BTreeMap<SocketAddr, u32>, shares: &[(SocketAddr, f64)]) -> f64 {
    let total: u32 = observed.values().sum();
    shares
        .iter()
        .map(|(host, share)| {
            let expected = share * f64::from(total);
            let seen = f64::from(observed.get(host).copied().unwrap_or(0));
            (seen - expected).powi(2) / expected
        })
        .sum()
}

fn tally(cluster: &ClusterState, requests: u32, seed: u64) -> BTreeMap<SocketAddr, u32> {
    let mut rng = rng(seed);
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let host = cluster
            .choose(&Choice::default(), Nanos::ZERO, &mut rng)
            .expect("a host");
        *counts.entry(host.address).or_insert(0) += 1;
    }
    counts
}

#[test]
fn random_and_idle_least_request_are_uniform() {
    for lb in [
        LbPolicy::Random,
        LbPolicy::LeastRequest(LeastRequest::default()),
    ] {
        let cluster = state(Cluster {
            lb,
            ..cluster("c", 5)
        });
        let counts = tally(&cluster, 10_000, 3);
        let shares: Vec<_> = (1..=5).map(|n| (address(n), 0.2)).collect();
        let chi = chi_squared(&counts, &shares);
        assert!(chi < CHI_SQUARED_1_PERCENT[3], "{lb:?}: {chi} {counts:?}");
    }
}

/// Two draws with replacement: the busier of two hosts is taken only when both draws fall on it.
#[test]
fn least_request_draws_two_with_replacement() {
    let cluster = state(Cluster {
        lb: LbPolicy::LeastRequest(LeastRequest::default()),
        ..cluster("c", 2)
    });
    let busy = cluster.members.iter().next().expect("a host").clone();
    let _held = ActiveRequest::new(&busy);
    let counts = tally(&cluster, 10_000, 5);
    let chi = chi_squared(&counts, &[(address(1), 0.25), (address(2), 0.75)]);
    assert!(chi < CHI_SQUARED_1_PERCENT[0], "{chi} {counts:?}");
}

#[test]
fn weighted_least_request_counts_what_is_active() {
    let config = Cluster {
        lb: LbPolicy::LeastRequest(LeastRequest::default()),
        endpoints: Some(Arc::new(endpoints("c", &[2, 1]))),
        ..cluster("c", 2)
    };
    let cluster = state(config);
    let counts = tally(&cluster, 9_000, 5);
    assert!(counts[&address(1)].abs_diff(6_000) <= 1, "{counts:?}");
    // With three requests under way the heavier host counts half as much as the other.
    let heavy = cluster.members.iter().next().expect("a host").clone();
    let _held: Vec<_> = (0..3).map(|_| ActiveRequest::new(&heavy)).collect();
    let counts = tally(&cluster, 9_000, 5);
    let share = f64::from(counts[&address(1)]) / 9_000.0;
    assert!((share - 1.0 / 3.0).abs() < 0.01, "{share}");
}

#[test]
fn new_hosts_start_slowly() {
    let slow = SlowStart {
        window: Duration::from_secs(100),
        aggression: 1.0,
        min_weight_percent: 10.0,
    };
    let mut config = cluster("c", 2);
    config.lb = LbPolicy::RoundRobin {
        slow_start: Some(slow),
    };
    let old = state(config.clone());
    // One more host, when the others have long been there.
    let later = Nanos::from_secs(1000);
    let more = Arc::new(endpoints("c", &[1, 1, 1]));
    let cluster = ClusterState::new(Arc::new(config), Some(more), Some(&old), later);
    let count = |at: Nanos| {
        let mut rng = rng(1);
        // Let turns from before this time pass.
        for _ in 0..100 {
            let _ = cluster.choose(&Choice::default(), at, &mut rng);
        }
        (0..2_100)
            .filter(|_| {
                cluster
                    .choose(&Choice::default(), at, &mut rng)
                    .is_some_and(|host| host.address == address(3))
            })
            .count()
    };
    let share = |at: Nanos| count(at) as f64 / 2_100.0;
    assert!((share(later) - 0.1 / 2.1).abs() < 0.01);
    let half = later.after(Duration::from_secs(50));
    assert!((share(half) - 0.5 / 2.5).abs() < 0.01);
    let whole = later.after(Duration::from_secs(100));
    assert!((share(whole) - 1.0 / 3.0).abs() < 0.01);
}

#[test]
fn places_take_traffic_by_weight_and_health() {
    let labels = Arc::new(Labels::default());
    let place = |zone: &str, weight: u32, hosts: std::ops::Range<u8>, sick: u8| LocalityEndpoints {
        locality: Locality {
            zone: Arc::from(zone),
            ..Locality::default()
        },
        weight: Some(weight),
        priority: 0,
        endpoints: hosts
            .map(|n| Endpoint {
                health: if n < sick {
                    EndpointHealth::Unhealthy
                } else {
                    EndpointHealth::Healthy
                },
                ..Endpoint::new(address(n), labels.clone())
            })
            .collect(),
    };
    let mut all = Endpoints::new("c");
    // The second place has half its hosts: 1.4 · 0.5 = 0.7 of its weight.
    all.localities = vec![place("a", 1, 1..3, 0), place("b", 2, 10..20, 15)];
    let cluster = state(Cluster {
        common_lb: CommonLb {
            locality: LocalityLb::Weighted,
            ..CommonLb::default()
        },
        endpoints: Some(Arc::new(all)),
        ..Cluster::new("c", ClusterKind::Static)
    });
    let counts = tally(&cluster, 24_000, 9);
    let first: u32 = (1..3).map(|n| counts[&address(n)]).sum();
    assert!(
        (f64::from(first) / 24_000.0 - 1.0 / 2.4).abs() < 0.01,
        "{first}"
    );
}

#[test]
fn subsets_and_their_fallbacks() {
    let labelled = |version: &str| {
        Arc::new(Labels {
            subset: vec![(Arc::from("version"), Arc::from(version))],
            ..Labels::default()
        })
    };
    let mut all = Endpoints::new("c");
    all.localities.push(LocalityEndpoints {
        endpoints: vec![
            Endpoint::new(address(1), labelled("v1")),
            Endpoint::new(address(2), labelled("v2")),
        ],
        ..LocalityEndpoints::default()
    });
    let cluster = |fallback| {
        state(Cluster {
            endpoints: Some(Arc::new(all.clone())),
            subsets: Some(Arc::new(SubsetLb {
                selectors: vec![SubsetSelector {
                    keys: vec![Arc::from("version")],
                    fallback: None,
                }],
                fallback,
                default_subset: vec![(Arc::from("version"), Arc::from("v1"))],
                panic_mode_any: false,
            })),
            ..Cluster::new("c", ClusterKind::Static)
        })
    };
    let choose = |cluster: &ClusterState, version: &str| {
        let labels = [(Arc::from("version"), Arc::from(version))];
        cluster
            .choose(
                &Choice {
                    labels: &labels,
                    ..Choice::default()
                },
                Nanos::ZERO,
                &mut rng(2),
            )
            .map(|host| host.address)
    };
    let none = cluster(SubsetFallback::NoFallback);
    assert_eq!(choose(&none, "v2"), Some(address(2)));
    assert_eq!(choose(&none, "v3"), None);
    let default = cluster(SubsetFallback::DefaultSubset);
    assert_eq!(choose(&default, "v3"), Some(address(1)));
    assert!(choose(&cluster(SubsetFallback::AnyEndpoint), "v3").is_some());
}

#[test]
fn maglev_is_even() {
    let cluster = state(Cluster {
        lb: LbPolicy::Maglev(Maglev::default()),
        ..cluster("c", 10)
    });
    let mut rng = rng(1);
    let mut counts = BTreeMap::new();
    for _ in 0..20_000 {
        let hash = rng.next_u64();
        let choice = Choice {
            hash: Some(hash),
            ..Choice::default()
        };
        let host = cluster
            .choose(&choice, Nanos::ZERO, &mut rng)
            .expect("a host");
        *counts.entry(host.address).or_insert(0u32) += 1;
    }
    let shares: Vec<_> = (1..=10).map(|n| (address(n), 0.1)).collect();
    // Nine degrees of freedom, one percent.
    assert!(chi_squared(&counts, &shares) < 21.67, "{counts:?}");
}

#[test]
fn a_changed_health_is_seen_at_once() {
    let before = state(cluster("c", 3));
    let mut next = endpoints("c", &[1, 1, 1]);
    next.localities[0].endpoints[0].health = EndpointHealth::Draining;
    let after = ClusterState::new(
        before.config.clone(),
        Some(Arc::new(next)),
        Some(&before),
        Nanos::ZERO,
    );
    let counts = tally(&after, 300, 1);
    assert_eq!(counts.get(&address(1)), None);
    assert_eq!(counts.len(), 2);
}
