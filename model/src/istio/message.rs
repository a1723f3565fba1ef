//! How a message of Istio's API becomes a Rust struct: proto3's JSON, in which what has its default is left out.

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares structs whose fields default and are omitted when they have their default.
macro_rules! message {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(skip_serializing_if = "crate::istio::message::is_default")]
                pub $field: $type,
            )*
        }
    )*};
}

/// Declares enums whose names in JSON are Istio's upper-case ones; the first variant is the default.
macro_rules! choice {
    ($($(#[$meta:meta])* pub enum $name:ident { $(#[$first_meta:meta])* $first:ident = $first_text:literal $(, $(#[$rest_meta:meta])* $rest:ident = $rest_text:literal)* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            #[default]
            $(#[$first_meta])*
            #[serde(rename = $first_text)]
            $first,
            $(
                $(#[$rest_meta])*
                #[serde(rename = $rest_text)]
                $rest,
            )*
        }

        impl $name {
            /// Every name, in the order of Istio's declaration.
            pub const NAMES: &'static [&'static str] = &[$first_text $(, $rest_text)*];
        }
    )*};
}
