use super::*;

fn record(path: &Path, options: &str) -> (DiskRecord, Disk) {
    let spec: DiskSpec = format!("{}{options}", path.display()).parse().unwrap();
    let disk = Disk::open(&spec).unwrap();
    (DiskRecord::new(&spec, &disk).unwrap(), disk)
}

#[test]
fn a_disk_is_known_again_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [7; 8192]).unwrap();
    let (record, disk) = record(&path, ",sector=4096");
    let mut bytes = Vec::new();
    record.save(&mut bytes);
    let mut rest = &bytes[..];
    let loaded = DiskRecord::load(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!((&loaded.spec, loaded.saved), (&record.spec, record.saved));
    assert_eq!(loaded.to_string(), format!("{path:?}, 8192 bytes, sectors of 4096"));
    loaded.check(&disk).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(matches!(loaded.check(&disk), Err(RecordError::Changed { .. })));
    drop(disk);
    let other = Disk::open(&DiskSpec::new(&path)).unwrap();
    assert!(matches!(loaded.check(&other), Err(RecordError::SectorSize { given: 512, saved: 4096, .. })));
    drop(other);
    file.set_len(16384).unwrap();
    let larger = Disk::open(&loaded.spec).unwrap();
    assert!(matches!(loaded.check(&larger), Err(RecordError::Size { given: 16384, saved: 8192, .. })));
}

#[test]
fn a_folder_is_known_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "one").unwrap();
    let (record, disk) = record(folder.path(), "");
    record.check(&disk).unwrap();
    record.check(&Disk::open(&record.spec).unwrap()).unwrap();
    std::fs::write(folder.path().join("a.txt"), "two").unwrap();
    let changed = record.check(&Disk::open(&record.spec).unwrap());
    assert!(matches!(changed, Err(RecordError::Changed { .. })), "{changed:?}");
}

#[test]
fn a_trusted_record_opens_nothing_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [7; 8192]).unwrap();
    for (path, options) in [
        (&*path, ""),
        (&path, ",ro"),
        (&path, ",overlay"),
        (&path, ",sector=4096"),
        (folder.path(), ""),
        (folder.path(), ",overlay"),
    ] {
        let (record, given) = record(path, options);
        drop(given);
        let trusted = record.trusted();
        assert!(trusted.read_only != trusted.overlay && !trusted.direct, "{options}: {trusted:?}");
        record.check(&Disk::open(&trusted).unwrap()).unwrap();
    }
    // A folder that a forger says of what is a file. Nobody reads the file to find out.
    let (mut forged, given) = record(&path, ",ro");
    forged.saved.flags = FOLDER;
    assert!(forged.trusted().read_only);
    assert!(matches!(forged.check(&given), Err(RecordError::Changed { .. })));
}

#[test]
fn a_disk_of_another_kind_is_another_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [7; 8192]).unwrap();
    let (record, disk) = record(&path, "");
    drop(disk);
    let other = Disk::open(&DiskSpec { read_only: true, ..record.spec.clone() }).unwrap();
    assert!(matches!(record.check(&other), Err(RecordError::ReadOnly { given: true, .. })));
    drop(other);
    // The same bytes, made from a folder.
    let seen = Disk::open(&format!("{},overlay", folder.path().display()).parse().unwrap()).unwrap();
    let mut forged = record;
    forged.saved.size = seen.size();
    assert!(matches!(forged.check(&seen), Err(RecordError::Changed { .. })));
}

#[test]
fn a_path_is_printed_without_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [7; 8192]).unwrap();
    let (mut record, _disk) = record(&path, ",ro");
    record.spec.path = OsString::from_vec(b"/a\x1b[2J\nhv: \xff\xe2\x80\xae".to_vec()).into();
    let text = record.to_string();
    assert!(text.starts_with(r#""/a\u{1b}[2J\nhv: \xff\u{202e}", "#), "{text}");
}

#[test]
fn what_is_in_an_overlay_cannot_be_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.img");
    std::fs::write(&path, [7; 8192]).unwrap();
    let (mut record, disk) = record(&path, ",overlay");
    record.update().unwrap();
    disk.overlay().unwrap().wrote(0, 512);
    assert!(matches!(record.update(), Err(RecordError::Overlay { .. })));
}

#[test]
fn a_broken_form_is_none() {
    for bytes in [&[0; 48][..], &[255; 48], &[1; 10], &[]] {
        assert!(DiskRecord::load(&mut &bytes[..]).is_none());
    }
}
