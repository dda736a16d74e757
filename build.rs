//! A release has what a message runs side by side (`packaging/path.ld`, written by `cargo bench --bench path`): some MiB less of the program
//! are in memory. An optimised program only; a list that has grown old costs nothing but that.

fn main() {
    println!("cargo:rerun-if-changed=packaging/path.ld");
    let of_build = |name: &str| std::env::var(name).unwrap_or_default();
    if of_build("PROFILE") == "release" {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}/packaging/path.ld", of_build("CARGO_MANIFEST_DIR"));
    }
}
