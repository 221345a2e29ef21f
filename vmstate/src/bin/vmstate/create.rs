//! `vmstate create`: a new qcow2 image, with its external data file if it has one.
use crate::args::CreateArgs;
use crate::context::Cx;
use crate::failure::Failure;
use crate::graph::{HostFile, Purpose};
use crate::human;
use crate::say;
use crate::target::{Making, Target};
use block_drivers::qcow2::{self, CreateOptions, Qcow2Error};
use serde_json::json;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The name of a step, for messages.
const CREATE: &str = "create";

pub(crate) fn run(args: &CreateArgs) -> Result<(), Failure> {
    let shown = args.file.display().to_string();
    let wrong = |why: String| Failure::new(&shown, CREATE, why).leaving("nothing was written");
    let options = options(args.options.as_deref(), args.size).map_err(wrong)?;
    let data_file = match &options.data_file {
        Some(data) => Some(data_path(&args.file, &data.file).map_err(wrong)?),
        None => None,
    };
    let made = Cx::run(NonZeroUsize::MIN.saturating_add(1), async |cx| {
        create(cx, args, &options, data_file.as_deref()).await
    })?;
    if args.output.json {
        let created = json!({
            "file": shown,
            "virtual-size": made,
            "data-file": data_file.as_ref().map(|path| path.display().to_string()),
        });
        return say::done_on_stdout(json!({ "created": created }), "the image is complete");
    }
    let line = format!("created {}: qcow2, {made} bytes", human::line(&shown));
    say::done_on_stdout(line, "the image is complete")
}

/// Makes the files beside their places, and gives them their names when both are complete; the disk's length.
async fn create(
    cx: &Cx,
    args: &CreateArgs,
    options: &CreateOptions,
    data_file: Option<&Path>,
) -> Result<u64, Failure> {
    let shown = args.file.display().to_string();
    let prepare = Target::prepare(cx, &args.file, Making::Image, args.force);
    let untouched = |failure: Failure| failure.leaving("nothing was written");
    let prepared = cx.unless_stopped(&shown, CREATE, prepare).await;
    let mut target = prepared.map_err(untouched)?;
    let mut data = match data_file {
        Some(path) => {
            let prepare = Target::prepare(cx, path, Making::State, args.force);
            let data = cx.unless_stopped(&shown, CREATE, prepare).await;
            let data = data.map_err(untouched)?;
            if data.is_same(&target) {
                let why = "the data file is the image itself";
                return Err(untouched(Failure::new(&shown, CREATE, why)));
            }
            Some(data)
        }
        None => None,
    };
    let pair = data_file
        .zip(data.as_ref())
        .map(|(shown, data)| (data.temporary(), shown));
    let made = image(cx, (target.temporary(), &args.file), pair, options).await;
    let size = match made {
        Ok(size) => size,
        Err(failure) => {
            let Some(data) = &mut data else {
                return Err(target.failed(failure));
            };
            // Each knows whether its own temporary file is another process's.
            let of_data = data.failed(failure.clone());
            let failure = target.failed(failure);
            return Err(failure.also_leaving(of_data.left("the data file")));
        }
    };
    let Some(data) = data else {
        target.commit(cx).await?;
        return Ok(size);
    };
    if let Err(failure) = data.commit(cx).await {
        let image = format!("the image: {}", target.left_after());
        return Err(failure.also_leaving(image));
    }
    let committed = target.commit(cx).await;
    committed.map_err(|e| e.also_leaving("the data file is complete"))?;
    Ok(size)
}

/// Makes an image, and its data file where it is to have one, each at a path that is shown as another; the disk's length. Durable when it
/// returns.
pub(crate) async fn image(
    cx: &Cx,
    (path, shown): (&Path, &Path),
    data_file: Option<(&Path, &Path)>,
    options: &CreateOptions,
) -> Result<u64, Failure> {
    // Not stopped by a signal: it could make the file after it was removed.
    let file = HostFile::open(cx, path, shown, false, Purpose::Create).await?;
    let data = match data_file {
        Some((path, shown)) => Some(HostFile::open(cx, path, shown, false, Purpose::Create).await?),
        None => None,
    };
    let child = file.attach(CREATE)?;
    let data_child = match &data {
        Some(data) => Some(data.attach(CREATE)?),
        None => None,
    };
    let failed = |error: Qcow2Error| match error {
        Qcow2Error::Io { error, .. } => Failure::block(shown.display(), &error),
        other => Failure::new(shown.display(), CREATE, &other).with_errno(other.errno().0),
    };
    let work = async {
        let made = qcow2::create(&child, data_child.as_ref(), options).await;
        made.map_err(failed)?;
        let info = qcow2::info(&child).await.map_err(failed)?;
        Ok(info.disk_size)
    };
    let name = shown.display().to_string();
    let size = cx.unless_stopped(&name, CREATE, work).await?;
    drop((child, data_child));
    file.close().await?;
    if let Some(data) = data {
        data.close().await?;
    }
    Ok(size)
}

/// The options of `-o`, with the size of `--size`.
fn options(list: Option<&str>, size: Option<u64>) -> Result<CreateOptions, String> {
    let options = CreateOptions::from_pairs(list.unwrap_or_default()).map_err(|e| e.to_string())?;
    let size = match (size, options.size) {
        (Some(_), Some(_)) => return Err("the size is given twice".to_owned()),
        (None, None) => return Err("the size is missing".to_owned()),
        (size, in_list) => size.or(in_list),
    };
    Ok(CreateOptions { size, ..options })
}

/// The same for the images of a replay or demo: what is not said is the default, the size too.
pub(crate) fn options_or_default(
    list: Option<&str>,
    default_size: u64,
) -> Result<CreateOptions, String> {
    let options = CreateOptions::from_pairs(list.unwrap_or_default()).map_err(|e| e.to_string())?;
    if options.data_file.is_some() {
        return Err("an image with an external data file has no snapshots".to_owned());
    }
    let size = options.size.or(Some(default_size));
    Ok(CreateOptions { size, ..options })
}

/// The file that `image` calls `name`. QEMU looks for a relative name in the folder that it runs in, others in the image's; made is only what
/// both find.
fn data_path(image: &Path, name: &OsStr) -> Result<PathBuf, String> {
    let shown = name.display();
    let start = name.as_bytes().split(|byte| *byte == b'/').next();
    if start.is_some_and(|start| start.contains(&b':')) {
        return Err(format!("the data file {shown} has the name of a protocol"));
    }
    let folder = image.parent().unwrap_or(Path::new(""));
    let is_here = folder.as_os_str().is_empty() || folder == Path::new(".");
    match Path::new(name).is_absolute() || is_here {
        true => Ok(PathBuf::from(name)),
        false => Err(format!(
            "the data file {shown} is relative, and would be looked for in the image's folder or in that of QEMU: its whole path is needed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_given_once() {
        assert_eq!(options(None, Some(512)).unwrap().size, Some(512));
        assert_eq!(options(Some("size=1k"), None).unwrap().size, Some(1024));
        assert!(options(Some("size=1k"), Some(512)).is_err());
        assert!(options(Some("cluster_size=4k"), None).is_err());
        assert_eq!(options_or_default(None, 7).unwrap().size, Some(7));
    }

    #[test]
    fn a_data_file_is_one_that_everybody_finds() {
        let found = |image, name| data_path(Path::new(image), OsStr::new(name));
        assert_eq!(found("b", "d").unwrap(), Path::new("d"));
        assert_eq!(found("./b", "x/d").unwrap(), Path::new("x/d"));
        assert_eq!(found("a/b", "/d").unwrap(), Path::new("/d"));
        assert_eq!(found("b", "./x:y").unwrap(), Path::new("./x:y"));
        assert!(found("b", "nbd:host").is_err());
        assert!(found("a/b", "d").unwrap_err().contains("whole path"));
    }
}
