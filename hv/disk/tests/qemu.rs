//! Images that QEMU's tools make are read as they read them; what hv writes, they find sound and the same.

use hv_disk::{Chain, Format, Image, ImageError, OpenOptions, open};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn has_tools() -> bool {
    let there =
        Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        hv_skip::skip("needs qemu-img");
    }
    there
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn qemu_img(arguments: &[&str]) -> String {
    let output = run("qemu-img", arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "qemu-img {arguments:?}: {out}{err}");
    out.into_owned()
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

fn opened(path: &Path, options: &OpenOptions) -> Result<Chain, ImageError> {
    let file = File::options().read(true).write(options.writable).open(path).unwrap();
    open(file, path, Format::Qcow2, options)
}

fn reading(path: &Path) -> Chain {
    opened(path, &OpenOptions::default()).unwrap()
}

fn writing(path: &Path) -> Chain {
    opened(path, &OpenOptions { writable: true, ..OpenOptions::default() }).unwrap()
}

fn all(image: &dyn Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read(&mut bytes, 0).unwrap();
    bytes
}

/// A disk with data, holes, zeroes and what packs well.
fn content(random: &mut fastrand::Rng, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        let len = (random.usize(1..64) << 9).min(size - at);
        match random.u32(0..4) {
            0 | 1 => {}
            2 => bytes[at..at + len].fill(random.u8(..)),
            _ => random.fill(&mut bytes[at..at + len]),
        }
        at += len;
    }
    bytes
}

/// Options of `qemu-img create` and `convert`.
const OPTIONS: [&str; 12] = [
    "compat=0.10",
    "compat=1.1",
    "compat=0.10,cluster_size=512",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M,refcount_bits=64",
    "refcount_bits=2,lazy_refcounts=on",
    "lazy_refcounts=on",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on",
    "compression_type=zstd",
    "preallocation=metadata",
];

/// Of these, those that a compressed image can have.
fn packs(options: &str) -> bool {
    !options.contains("preallocation") && options != "cluster_size=512"
}

#[test]
fn what_qemu_img_writes_is_read() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(1);
    for (number, options) in OPTIONS.into_iter().enumerate() {
        let expected = content(&mut random, 5 << 20 | 0x1200);
        fs::write(folder.path("raw"), &expected).unwrap();
        for packed in [false, true] {
            if packed && !packs(options) {
                continue;
            }
            let name = format!("{number}{packed}.qcow2");
            let (raw, qcow2) = (folder.text("raw"), folder.text(&name));
            let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            if packed {
                arguments.push("-c");
            }
            arguments.extend([raw.as_str(), qcow2.as_str()]);
            qemu_img(&arguments);
            let chain = reading(&folder.path(&name));
            assert!(all(&*chain.image) == expected, "{options}, packed: {packed}");
            for _ in 0..200 {
                let at = random.usize(0..expected.len());
                let len = random.usize(0..(expected.len() - at).min(200_000));
                let mut bytes = vec![0; len];
                chain.image.read(&mut bytes, at as u64).unwrap();
                assert!(bytes == expected[at..at + len], "{options}, packed: {packed}, {at} {len}");
            }
        }
    }
}

/// Changes an image and a model of it in the same random ways.
fn change(image: &dyn Image, model: &mut [u8], random: &mut fastrand::Rng, times: usize) {
    for _ in 0..times {
        let sectors = model.len() as u64 / 512;
        let first = random.u64(0..sectors);
        let most = if random.u32(0..8) == 0 { 2048 } else { 64 };
        let count = random.u64(1..=most.min(sectors - first));
        let (offset, len) = (first * 512, count * 512);
        let part = offset as usize..(offset + len) as usize;
        match random.u32(0..10) {
            0..7 => {
                random.fill(&mut model[part.clone()]);
                image.write(&model[part], offset).unwrap();
            }
            7 => {
                model[part].fill(0);
                image.zero(offset, len).unwrap();
            }
            8 => {
                image.discard(offset, len).unwrap();
                // It reads as before or as zeroes.
                let mut now = vec![0; len as usize];
                image.read(&mut now, offset).unwrap();
                for (byte, now) in model[part].iter_mut().zip(now) {
                    assert!(now == *byte || now == 0);
                    *byte = now;
                }
            }
            _ => image.flush().unwrap(),
        }
    }
}

/// No error and no leak.
fn sound(path: &str) {
    let output = run("qemu-img", &["check", "-f", "qcow2", path]);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {text}");
}

fn converted(folder: &Folder, image: &str) -> Vec<u8> {
    let raw = folder.text("converted");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image, &raw]);
    fs::read(raw).unwrap()
}

#[test]
fn what_hv_writes_is_sound_and_the_same_to_qemu_img() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(2);
    for (number, options) in OPTIONS.into_iter().enumerate() {
        let name = format!("{number}.qcow2");
        let path = folder.text(&name);
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &path, "9M"]);
        let mut model = vec![0; 9 << 20];
        for _ in 0..3 {
            let chain = writing(&folder.path(&name));
            change(&*chain.image, &mut model, &mut random, 150);
            assert!(all(&*chain.image) == model, "{options}, while open");
            chain.image.close().unwrap();
            drop(chain);
            sound(&path);
            assert!(converted(&folder, &path) == model, "{options}");
            assert!(all(&*reading(&folder.path(&name)).image) == model, "{options}, again");
        }
    }
}

#[test]
fn compressed_clusters_are_written_over() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(3);
    for options in
        ["compression_type=zlib", "compression_type=zstd", "extended_l2=on", "compat=0.10,cluster_size=4k"]
    {
        let mut model = content(&mut random, 6 << 20);
        fs::write(folder.path("raw"), &model).unwrap();
        let (raw, path) = (folder.text("raw"), folder.text("packed.qcow2"));
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, &raw, &path]);
        let chain = writing(&folder.path("packed.qcow2"));
        change(&*chain.image, &mut model, &mut random, 200);
        chain.image.close().unwrap();
        drop(chain);
        sound(&path);
        assert!(converted(&folder, &path) == model, "{options}");
    }
}

#[test]
fn chains_are_read_through_and_written_at_the_top() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(4);
    for (number, options) in OPTIONS.into_iter().enumerate() {
        if options.contains("preallocation") {
            continue;
        }
        // A raw base, smaller than what is above it.
        let base = content(&mut random, 3 << 20);
        let names: Vec<_> = (0..4).map(|at| format!("{number}-{at}")).collect();
        fs::write(folder.path(&names[0]), &base).unwrap();
        let mut model = base.clone();
        model.resize(5 << 20, 0);
        for at in 1..4 {
            let (path, format) = (folder.text(&names[at]), if at == 1 { "raw" } else { "qcow2" });
            let options = format!("{options},backing_fmt={format},backing_file={}", names[at - 1]);
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &path, "5M"]);
            let chain = writing(&folder.path(&names[at]));
            change(&*chain.image, &mut model, &mut random, 60);
            assert!(all(&*chain.image) == model, "{options}");
            chain.image.close().unwrap();
            assert_eq!(chain.files.len(), at + 1);
            drop(chain);
            sound(&path);
            assert!(converted(&folder, &path) == model, "{options}");
        }
        assert!(fs::read(folder.path(&names[0])).unwrap() == base, "what is behind stays");
    }
}

#[test]
fn snapshots_inside_keep_what_they_had() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(5);
    for options in ["compat=0.10", "cluster_size=4k", "extended_l2=on", "lazy_refcounts=on"] {
        let path = folder.text("s.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &path, "4M"]);
        let mut model = vec![0; 4 << 20];
        let mut kept = Vec::new();
        for name in ["one", "two", "three"] {
            let chain = writing(&folder.path("s.qcow2"));
            change(&*chain.image, &mut model, &mut random, 60);
            chain.image.close().unwrap();
            drop(chain);
            sound(&path);
            qemu_img(&["snapshot", "-c", name, &path]);
            kept.push((name, model.clone()));
        }
        let chain = writing(&folder.path("s.qcow2"));
        change(&*chain.image, &mut model, &mut random, 100);
        chain.image.close().unwrap();
        drop(chain);
        sound(&path);
        assert!(converted(&folder, &path) == model, "{options}");
        for (name, kept) in kept {
            let raw = folder.text("of-snapshot");
            qemu_img(&["convert", "-l", name, "-f", "qcow2", "-O", "raw", &path, &raw]);
            assert!(fs::read(raw).unwrap() == kept, "{options}, {name}");
        }
    }
}

#[test]
fn data_may_be_in_another_file() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(6);
    for (number, raw) in ["off", "on"].into_iter().enumerate() {
        let (name, data) = (format!("{number}.qcow2"), folder.text(&format!("{number}.data")));
        let path = folder.text(&name);
        let options = format!("data_file={data},data_file_raw={raw}");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, &path, "4M"]);
        let mut model = vec![0; 4 << 20];
        for _ in 0..2 {
            let chain = writing(&folder.path(&name));
            change(&*chain.image, &mut model, &mut random, 100);
            assert!(all(&*chain.image) == model, "raw={raw}");
            chain.image.close().unwrap();
            drop(chain);
            sound(&path);
            assert!(converted(&folder, &path) == model, "raw={raw}");
        }
        if raw == "on" {
            assert!(fs::read(&data).unwrap() == model, "a raw image, too");
        }
    }
}

#[test]
fn many_threads_write_at_once() {
    if !has_tools() {
        return;
    }
    let folder = Folder::new();
    for options in ["cluster_size=64k", "extended_l2=on", "cluster_size=512"] {
        let path = folder.text("t.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &path, "8M"]);
        let chain = writing(&folder.path("t.qcow2"));
        // Each thread has every eighth sector, so that all of them are in each cluster.
        let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u64)
                .map(|own| {
                    let image = chain.image.clone();
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(own);
                        let mut mine = vec![0; 1 << 20];
                        for round in 0..1500 {
                            let sector = random.u64(0..2048);
                            let bytes = &mut mine[sector as usize * 512..][..512];
                            random.fill(bytes);
                            image.write(bytes, (sector * 8 + own) * 512).unwrap();
                            if round % 100 == 50 {
                                image.flush().unwrap();
                            }
                        }
                        mine
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        chain.image.close().unwrap();
        drop(chain);
        sound(&path);
        let bytes = converted(&folder, &path);
        for (sector, bytes) in bytes.chunks_exact(512).enumerate() {
            let (own, at) = (sector % 8, sector / 8);
            assert!(bytes == &parts[own][at * 512..][..512], "{options}, sector {sector}");
        }
    }
}
