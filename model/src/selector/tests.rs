//! Golden cases of the selectors' syntax, errors and matching.

use serde_json::json;

use super::*;
use crate::kinds;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

#[test]
fn canonical_text() {
    for (text, want) in [
        ("", ""),
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("z=c, x = a", "x=a,z=c"),
        ("x!=a", "x!=a"),
        ("x==a", "x==a"),
        ("x=", "x="),
        ("x= ,z= ", "x=,z="),
        ("!x", "!x"),
        ("x in (b,a)", "x in (a,b)"),
        ("x notin (a)", "x notin (a)"),
        ("x in ()", "x in ()"),
        ("x in (,a)", "x in (,a)"),
        ("x,y in (in)", "x,y in (in)"),
        ("x>1,y<7", "x>1,y<7"),
        ("in=a", "in=a"),
        ("example.com/x=1", "example.com/x=1"),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap().to_string(), want);
    }
}

#[test]
fn errors_are_those_of_kubernetes() {
    for (text, want) in [
        (
            ",",
            "found ',', expected: !, identifier, or 'end of string'",
        ),
        ("x=a,", "found '', expected: identifier after ','"),
        (
            "x=a||y=b",
            "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "x a",
            "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "x in a",
            "unable to parse requirement: found 'a' expected: '('",
        ),
        (
            "x in (a",
            "unable to parse requirement: found '', expected: ',' or ')'",
        ),
        ("x=a b", "found 'b', expected: ',' or 'end of string'"),
        (
            "x==!a",
            "unable to parse requirement: found '!', expected: identifier",
        ),
        (
            "a/b/c",
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
        ),
        (
            "x>a",
            "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err().0, want, "{text}");
    }
}

#[test]
fn matching() {
    let set = labels(&[("app", "web"), ("rank", "5")]);
    for (text, want) in [
        ("", true),
        ("app=web", true),
        ("app=db", false),
        ("app!=db", true),
        ("missing!=db", true),
        ("missing=", false),
        ("app in (web,db)", true),
        ("app notin (web)", false),
        ("missing notin (web)", true),
        ("app,!missing", true),
        ("!app", false),
        ("rank>4,rank<6", true),
        ("rank>5", false),
        ("app>1", false),
    ] {
        assert_eq!(
            LabelSelector::parse(text).unwrap().matches(&set),
            want,
            "{text}"
        );
    }
}

#[test]
fn object_form() {
    let selector = LabelSelector::from_json(&json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["front", "back"]},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }))
    .unwrap();
    assert_eq!(selector.to_string(), "app=web,!old,tier in (back,front)");
    assert!(selector.matches(&labels(&[("app", "web"), ("tier", "back")])));
    assert!(!selector.matches(&labels(&[("app", "web")])));
    assert!(LabelSelector::from_json(&json!(null)).unwrap().is_nothing());
    assert!(
        LabelSelector::from_json(&json!({}))
            .unwrap()
            .is_everything()
    );
    let wrong = json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]});
    assert_eq!(
        LabelSelector::from_json(&wrong).unwrap_err().0,
        "\"Near\" is not a valid label selector operator"
    );
    let empty = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": []}]});
    assert!(LabelSelector::from_json(&empty).is_err());
}

#[test]
fn field_selectors_of_pods() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.42.0.3"},
    });
    for (text, want) in [
        ("", true),
        ("metadata.name=p", true),
        ("spec.nodeName=n1,status.phase!=Failed", true),
        ("spec.host==n1", true),
        ("spec.nodeName=", false),
        ("spec.hostNetwork=false", true),
        ("status.podIP=10.42.0.3", true),
        ("status.phase=Pending", false),
    ] {
        let selector = FieldSelector::parse(kinds::POD, text).unwrap();
        assert_eq!(selector.matches(kinds::POD, &pod), want, "{text}");
    }
    for (kind, text, want) in [
        (kinds::POD, "spec.x=1", "field label not supported: spec.x"),
        (
            kinds::CONFIG_MAP,
            "data.x=1",
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        (
            kinds::POD,
            "metadata.name",
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'",
        ),
        (
            kinds::POD,
            "metadata.name=a=b",
            "invalid field selector: unescaped character in value: =",
        ),
        (
            kinds::POD,
            "metadata.name=a\\x",
            "invalid field selector: invalid escape sequence: \\x",
        ),
    ] {
        assert_eq!(FieldSelector::parse(kind, text).unwrap_err().0, want);
    }
}

#[test]
fn field_selectors_of_events_see_both_forms() {
    let core = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started",
        "source": {"component": "agent"}});
    let selector = "involvedObject.kind=Pod,involvedObject.name=p,source=agent,reason=Started";
    let selector = FieldSelector::parse(kinds::EVENT, selector).unwrap();
    assert!(selector.matches(kinds::EVENT, &core));
    assert_eq!(selector.exact("involvedObject.name"), Some("p"));
    let other = json!({"regarding": {"kind": "Pod", "name": "p"}, "reason": "Started",
        "reportingController": "agent"});
    assert!(selector.matches(kinds::EVENT, &other));
}
