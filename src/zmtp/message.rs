//! Messages: one frame or several.

use std::fmt;

use bytes::Bytes;

/// A message of one or more frames. Cloning it copies no contents.
///
/// ```
/// use zincmq::zmtp::Message;
///
/// let single = Message::from("hello");
/// let several = Message::from_frames(["topic", "body"]).unwrap();
/// assert_eq!((single.len(), several.len()), (1, 2));
/// assert_eq!(several.frame(1).unwrap(), "body");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Frames);

#[derive(Clone, PartialEq, Eq)]
enum Frames {
    One(Bytes),
    /// At least one.
    Many(Vec<Bytes>),
}

impl Message {
    /// A message of these frames; `None` without any.
    pub fn from_frames<B: Into<Bytes>>(frames: impl IntoIterator<Item = B>) -> Option<Self> {
        let mut frames = frames.into_iter().map(Into::into);
        let first = frames.next()?;
        Some(match frames.next() {
            None => Self(Frames::One(first)),
            Some(second) => Self(Frames::Many([first, second].into_iter().chain(frames).collect())),
        })
    }

    /// Its frames.
    #[must_use]
    pub fn frames(&self) -> &[Bytes] {
        match &self.0 {
            Frames::One(frame) => std::slice::from_ref(frame),
            Frames::Many(frames) => frames,
        }
    }

    /// A frame by its place; `None` beyond the last.
    #[must_use]
    pub fn frame(&self, index: usize) -> Option<&Bytes> {
        self.frames().get(index)
    }

    /// The first frame.
    #[must_use]
    pub fn first(&self) -> &Bytes {
        &self.frames()[0]
    }

    /// How many frames it has: at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always a frame")]
    pub fn len(&self) -> usize {
        self.frames().len()
    }

    /// The bytes of all frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames().iter().map(Bytes::len).sum()
    }

    /// Its frames, owned.
    #[must_use]
    pub fn into_frames(self) -> Vec<Bytes> {
        match self.0 {
            Frames::One(frame) => vec![frame],
            Frames::Many(frames) => frames,
        }
    }

    /// With another frame in front.
    #[must_use]
    pub fn with_first(self, frame: impl Into<Bytes>) -> Self {
        let mut frames = self.into_frames();
        frames.insert(0, frame.into());
        Self(Frames::Many(frames))
    }
}

impl<B: Into<Bytes>> From<B> for Message {
    fn from(frame: B) -> Self {
        Self(Frames::One(frame.into()))
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.frames()).finish()
    }
}
