//! Pins the size and every offset of a shared struct at compile time.

/// `layout!(Type: size { field @ offset, … });` fails to compile when the type
/// is laid out otherwise. A failure means that the ABI changed: read the
/// section on versions in `docs/abi.md` before touching a number.
macro_rules! layout {
    ($ty:ty: $size:literal { $($field:ident @ $offset:literal),* $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$ty>() == $size);
            $(assert!(core::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}
pub(crate) use layout;
