//! The `#[entry]` attribute of the hv guest SDK.
#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemFn, parse_macro_input};

/// Makes a function the guest's `main`.
///
/// The function is plain or `async`, takes no arguments (an async one may take
/// the `Spawner` of its executor), and returns `()`, an exit code (`u8`), or a
/// `Result` of these with an error that can be displayed.
#[proc_macro_attribute]
pub fn entry(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let main = parse_macro_input!(item as ItemFn);
    let name = &main.sig.ident;
    let error = |message: &str| syn::Error::new_spanned(&main.sig, message).to_compile_error().into();
    if !attribute.is_empty() {
        return error("#[entry] takes no arguments");
    }
    if !main.sig.generics.params.is_empty() {
        return error("the entry function cannot be generic");
    }
    let body = match (main.sig.asyncness.is_some(), main.sig.inputs.len()) {
        (false, 0) => quote!(::hv_guest::Termination::report(#name())),
        (false, _) => return error("the entry function takes no arguments; see hv_guest::env::args"),
        (true, 0) => quote!(::hv_guest::rt::run_main(|_| #name())),
        (true, 1) => quote!(::hv_guest::rt::run_main(#name)),
        (true, _) => return error("an async entry function takes a Spawner or nothing"),
    };
    quote! {
        #main

        #[unsafe(no_mangle)]
        extern "Rust" fn __hv_main() -> u8 {
            #body
        }
    }
    .into()
}
