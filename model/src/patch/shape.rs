//! How the fields of each kind merge: which lists have keys, which values change only as a whole. It is read from the
//! types of the schema, which server-side apply and strategic merge patch see differently.

use crate::kinds::Kind;
use crate::schema::tree::{self, Container, Field, Merge, tree};

/// What is known of the fields of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fields {
    /// Nothing: it merges field by field, lists in it are replaced.
    Unknown,
    /// Those of a type of the schema.
    Of(usize),
    /// They are no fields but entries, such as labels, each of this shape.
    Entries(tree::Shape),
}

/// How server-side apply sees a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A map that merges field by field.
    Map(Fields),
    /// Owned as a whole.
    Atomic,
    /// A list whose items are told apart by keys.
    Items(&'static Field),
    /// A list of primitives without order or repetition.
    Set,
}

/// How a strategic patch merges a list.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patch {
    /// It is replaced.
    Replace,
    /// By the field that tells items apart, which have these fields.
    ByKey(&'static str, Fields),
    /// A list of primitives: what is missing is added.
    Add,
}

/// The fields of a whole object of this kind.
pub(crate) fn root(kind: &Kind) -> Fields {
    tree()
        .index(&kind.definition())
        .map_or(Fields::Unknown, Fields::Of)
}

fn find(fields: Fields, name: &str) -> Option<&'static Field> {
    match fields {
        Fields::Of(owner) => tree().field(owner, name),
        Fields::Unknown | Fields::Entries(_) => None,
    }
}

/// A single value, as apply sees it.
fn single(shape: tree::Shape) -> Option<Shape> {
    match shape {
        tree::Shape::Struct(index) if tree().types[index].atomic => Some(Shape::Atomic),
        tree::Shape::Struct(index) => Some(Shape::Map(Fields::Of(index))),
        _ => None,
    }
}

/// The shape of one field, where it has one of its own.
pub(crate) fn field(fields: Fields, name: &str) -> Option<Shape> {
    if let Fields::Entries(shape) = fields {
        return single(shape);
    }
    let field = find(fields, name)?;
    match (field.container, field.merge) {
        (Container::One, _) => single(field.shape),
        (Container::Map, Merge::Atomic) => Some(Shape::Atomic),
        (Container::Map, _) => Some(Shape::Map(Fields::Entries(field.shape))),
        (Container::List, Merge::ByKeys) => Some(Shape::Items(field)),
        (Container::List, Merge::Set) => Some(Shape::Set),
        (Container::List, _) => None,
    }
}

/// The shape of the items of a list that has keys.
pub(crate) fn item(list: &Field) -> Option<Shape> {
    single(list.shape)
}

/// What a key of list items is where an item leaves it out.
pub(crate) fn default_key(name: &str) -> Option<&'static str> {
    // The only key that has a default in any list of Kubernetes.
    (name == "protocol").then_some("TCP")
}

/// The fields of a value, or of the items of a list, as a strategic patch sees them: it merges into everything.
pub(crate) fn patched_fields(fields: Fields, name: &str) -> Fields {
    let of = |shape| match shape {
        tree::Shape::Struct(index) => Fields::Of(index),
        _ => Fields::Unknown,
    };
    match (fields, find(fields, name)) {
        (Fields::Entries(shape), _) => of(shape),
        (_, Some(field)) if field.container == Container::Map => Fields::Entries(field.shape),
        (_, Some(field)) => of(field.shape),
        (_, None) => Fields::Unknown,
    }
}

/// How a strategic patch merges a list.
pub(crate) fn patched_list(fields: Fields, name: &str) -> Patch {
    match find(fields, name) {
        Some(field) if field.patch_strategy.split(',').any(|word| word == "merge") => {
            match field.patch_merge_key {
                "" => Patch::Add,
                key => Patch::ByKey(key, patched_fields(fields, name)),
            }
        }
        _ => Patch::Replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn at(path: &[&str]) -> Fields {
        path.iter().fold(root(kinds::POD), |fields, name| {
            patched_fields(fields, name)
        })
    }

    #[test]
    fn the_two_ways_to_change_an_object_see_it_differently() {
        // Apply owns the whole list, a patch merges it by key.
        assert!(field(at(&["status"]), "hostIPs").is_none());
        assert!(matches!(
            patched_list(at(&["status"]), "hostIPs"),
            Patch::ByKey("ip", _)
        ));
        // And the other way round.
        let resources = at(&["spec", "containers", "resources"]);
        assert!(matches!(field(resources, "claims"), Some(Shape::Items(_))));
        assert!(matches!(patched_list(resources, "claims"), Patch::Replace));
        // Apply owns the selector as a whole, a patch merges it.
        let spread = at(&["spec", "topologySpreadConstraints"]);
        assert!(matches!(
            field(spread, "labelSelector"),
            Some(Shape::Atomic)
        ));
        assert!(matches!(
            patched_fields(spread, "labelSelector"),
            Fields::Of(_)
        ));
        assert!(matches!(
            patched_list(at(&["metadata"]), "finalizers"),
            Patch::Add
        ));
        assert!(matches!(
            field(at(&["spec"]), "nodeSelector"),
            Some(Shape::Atomic)
        ));
        assert!(matches!(
            field(at(&["metadata"]), "labels"),
            Some(Shape::Map(Fields::Entries(tree::Shape::String)))
        ));
    }

    #[test]
    fn keys_are_sorted_and_a_protocol_is_one_of_ports() {
        for list in tree().types.iter().flat_map(|each| &each.fields) {
            assert!(list.keys.is_sorted(), "{}", list.name);
            let by_protocol = list.keys.iter().any(|key| default_key(key).is_some());
            assert!(!by_protocol || list.name == "ports", "{}", list.name);
        }
    }
}
