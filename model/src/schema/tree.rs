//! Every type the table of kinds reaches, compiled once from `types.txt` (which `generate.py` writes) and `istio.txt`
//! (written by hand).
//!
//! A line without indentation names a type; the indented lines after it are its fields: protobuf number (0 where the
//! protobuf form has none), JSON name (`...` for a struct whose fields JSON shows inline), shape, then how lists merge.
//! Types that are described nowhere else have rules beside the shape ([`Rule`], `required`, `one-of`, `loose`) and, after a `#`,
//! what they mean.

use std::collections::BTreeMap;
use std::sync::OnceLock;

static TYPES: &str = concat!(include_str!("types.txt"), include_str!("istio.txt"));

/// What a single value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    Quantity,
    IntOrString,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with six digits.
    MicroTime,
    /// Any JSON value.
    Raw,
    /// The field set of a managedFields entry.
    Fields,
    /// A list of strings that protobuf wraps in a message.
    Strings,
    /// Index into [`Tree::types`].
    Struct(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    One,
    List,
    Map,
}

/// How server-side apply merges a list or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// Lists are replaced as a whole; structs and maps merge field by field.
    Default,
    /// A list of scalars that each manager owns singly.
    Set,
    /// A list of structs told apart by the fields named in [`Field::keys`].
    ByKeys,
    /// A map that is replaced as a whole.
    Atomic,
}

/// What a value must be beside its shape.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rule {
    #[default]
    None,
    /// One of these.
    OneOf(Vec<&'static str>),
    /// A duration of at least a millisecond.
    Duration,
    /// As `Duration`, or none at all.
    DurationOrZero,
    /// From 0 to 2^32−1.
    Unsigned32,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    /// The fields of the struct appear in JSON beside those of its owner.
    pub inline: bool,
    pub container: Container,
    pub shape: Shape,
    pub merge: Merge,
    pub keys: Vec<&'static str>,
    /// Strategies of strategic merge patch (`merge`, `retainKeys`), comma-separated; empty for none.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    pub rule: Rule,
    pub required: bool,
    /// Of the fields of a type with the same name here, one at most is given; empty where that is no question.
    pub one_of: &'static str,
    /// OpenAPI v2, which old clients check objects against, says nothing of its type: an old spelling has another one.
    pub loose: bool,
    /// Empty where the type is described by crate k8s-openapi.
    pub description: &'static str,
}

#[derive(Debug, Clone)]
pub struct Type {
    /// OpenAPI name, such as `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// Server-side apply owns it as a whole.
    pub atomic: bool,
    /// In the order of Kubernetes' own declaration.
    pub fields: Vec<Field>,
    /// Empty where the type is described by crate k8s-openapi.
    pub description: &'static str,
}

impl Type {
    /// Name within Go's package: `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Name as Go prints it: `v1.PodSpec`.
    pub fn go_name(&self) -> &'static str {
        let mut dots = self.name.rmatch_indices('.').skip(1);
        dots.next()
            .map_or(self.name, |(at, _)| &self.name[at + 1..])
    }
}

#[derive(Debug)]
pub struct Tree {
    pub types: Vec<Type>,
    by_name: BTreeMap<&'static str, usize>,
}

/// The types of this build.
pub fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(|| Tree::parse(TYPES))
}

impl Tree {
    fn parse(text: &'static str) -> Tree {
        let names = text.lines().filter(|line| !line.starts_with(' '));
        let by_name: BTreeMap<&'static str, usize> = names
            .enumerate()
            .map(|(index, line)| (described(line).0.trim_end_matches(" atomic"), index))
            .collect();
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in text.lines() {
            match line.strip_prefix(' ') {
                None => {
                    let (head, description) = described(line);
                    types.push(Type {
                        name: head.trim_end_matches(" atomic"),
                        atomic: head.ends_with(" atomic"),
                        fields: Vec::new(),
                        description,
                    });
                }
                Some(line) => {
                    let field = parse_field(line, &by_name);
                    let owner = types.last_mut().expect("types.txt starts with a type");
                    owner.fields.push(field);
                }
            }
        }
        Tree { types, by_name }
    }

    pub fn index(&self, definition: &str) -> Option<usize> {
        self.by_name.get(definition).copied()
    }

    pub fn find(&self, definition: &str) -> Option<&Type> {
        self.index(definition).map(|index| &self.types[index])
    }

    /// The field of this JSON name, looking into inlined structs.
    pub fn field(&self, owner: usize, name: &str) -> Option<&Field> {
        let fields = &self.types[owner].fields;
        if let Some(field) = fields
            .iter()
            .find(|field| field.name == name && !field.inline)
        {
            return Some(field);
        }
        fields
            .iter()
            .filter(|field| field.inline)
            .find_map(|field| match field.shape {
                Shape::Struct(inner) => self.field(inner, name),
                _ => None,
            })
    }
}

/// A line and what it says after a `#`.
fn described(line: &'static str) -> (&'static str, &'static str) {
    line.split_once(" # ").unwrap_or((line, ""))
}

fn parse_field(line: &'static str, by_name: &BTreeMap<&'static str, usize>) -> Field {
    let (line, description) = described(line);
    let mut words = line.split(' ');
    let mut word = || {
        words
            .next()
            .expect("a field has a number, a name and a shape")
    };
    let number = word().parse().expect("a field number");
    let name = word();
    let shape = word();
    let (container, shape) = if let Some(inner) = shape.strip_prefix("[]") {
        (Container::List, inner)
    } else if let Some(inner) = shape.strip_prefix("{}") {
        (Container::Map, inner)
    } else {
        (Container::One, shape)
    };
    let shape = match shape {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        "time" => Shape::Time,
        "micro-time" => Shape::MicroTime,
        "raw" => Shape::Raw,
        "fields" => Shape::Fields,
        "strings" => Shape::Strings,
        definition => Shape::Struct(*by_name.get(definition).expect("a field's type is listed")),
    };
    let mut field = Field {
        number,
        name,
        inline: name == "...",
        container,
        shape,
        merge: Merge::Default,
        keys: Vec::new(),
        patch_strategy: "",
        patch_merge_key: "",
        rule: Rule::None,
        required: false,
        one_of: "",
        loose: false,
        description,
    };
    for rule in words {
        if let Some(allowed) = rule.strip_prefix("enum:") {
            field.rule = Rule::OneOf(allowed.split(',').collect());
        } else if let Some(group) = rule.strip_prefix("one-of:") {
            field.one_of = group;
        } else if rule == "duration" {
            field.rule = Rule::Duration;
        } else if rule == "duration-or-zero" {
            field.rule = Rule::DurationOrZero;
        } else if rule == "u32" {
            field.rule = Rule::Unsigned32;
        } else if rule == "required" {
            field.required = true;
        } else if rule == "loose" {
            field.loose = true;
        } else if let Some(keys) = rule.strip_prefix("list-map:") {
            field.merge = Merge::ByKeys;
            field.keys = keys.split(',').collect();
        } else if rule == "list-set" {
            field.merge = Merge::Set;
        } else if rule == "map-atomic" {
            field.merge = Merge::Atomic;
        } else if let Some((strategy, key)) = rule
            .strip_prefix("patch-")
            .and_then(|rule| rule.split_once(':'))
        {
            field.patch_strategy = strategy;
            field.patch_merge_key = key;
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn every_kind_and_its_subresources_have_a_type() {
        for kind in kinds::all() {
            assert!(
                tree().find(&kind.definition()).is_some(),
                "{}",
                kind.definition()
            );
        }
        for definition in [
            "io.k8s.api.autoscaling.v1.Scale",
            "io.k8s.api.policy.v1.Eviction",
            "io.k8s.api.core.v1.Binding",
            "io.k8s.api.authentication.v1.TokenRequest",
            "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
        ] {
            assert!(tree().find(definition).is_some(), "{definition}");
        }
    }

    #[test]
    fn inlined_fields_are_found() {
        let volume = tree().index("io.k8s.api.core.v1.Volume").unwrap();
        assert!(tree().field(volume, "configMap").is_some());
        assert!(tree().field(volume, "volumeSource").is_none());
        let container = tree().index("io.k8s.api.core.v1.Container").unwrap();
        let ports = tree().field(container, "ports").unwrap();
        assert_eq!(
            (ports.merge, ports.keys.as_slice()),
            (Merge::ByKeys, &["containerPort", "protocol"][..])
        );
        assert_eq!(ports.patch_merge_key, "containerPort");
        assert_eq!(tree().types[container].go_name(), "v1.Container");
    }

    #[test]
    fn numbers_are_unique_within_a_type() {
        for each in &tree().types {
            let mut numbers: Vec<u32> = each
                .fields
                .iter()
                .map(|field| field.number)
                .filter(|number| *number > 0)
                .collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{}", each.name);
        }
    }
}
