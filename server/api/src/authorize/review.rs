use crate::authorize::Attributes;
