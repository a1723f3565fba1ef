#[derive(Default)]
pub(crate) struct FrameCache;
