# SPDX-License-Identifier: Apache-2.0
"""Installing the bundle: whole, verifiable, replaceable, and nobody else's plug-in is touched."""

import os
import shutil
import subprocess

import pytest

from installers import install_plugin
from tests.plugin.building import ROOT, can_build
from tests.plugin.ofx_host import Host, Instance


@pytest.fixture
def small_bundle(tmp_path):
    bundle = tmp_path / "built" / "VS3R.ofx.bundle"
    (bundle / "Contents" / "Linux-x86-64").mkdir(parents=True)
    (bundle / "Contents" / "Linux-x86-64" / "VS3R.ofx").write_bytes(b"one")
    (bundle / "Contents" / "Info.plist").write_text("plist")
    return bundle


def run(*words):
    return install_plugin.main([str(word) for word in words])


def test_what_was_installed_is_loaded_verified_and_removed(bundle, tmp_path, capsys):
    folder = tmp_path / "OFX" / "Plugins"
    other = folder / "Other.ofx.bundle"
    other.mkdir(parents=True)
    assert run("verify", "--prefix", folder) == 1
    assert run("install", bundle, "--prefix", folder) == 0 and run("verify", "--prefix", folder) == 0
    with Host(folder / "VS3R.ofx.bundle/Contents/Linux-x86-64/VS3R.ofx") as host:
        assert Instance(host).destroy() == 0
    assert run("uninstall", "--prefix", folder) == 0 and list(folder.iterdir()) == [other]


def test_a_newer_one_replaces_it_and_changes_are_found(small_bundle, tmp_path, capsys):
    folder = tmp_path / "plugins"
    installed = install_plugin.install(small_bundle, folder)
    (small_bundle / "Contents/Linux-x86-64/VS3R.ofx").write_bytes(b"two")
    (small_bundle / "Contents/Info.plist").unlink()
    install_plugin.install(small_bundle, folder)
    assert (installed / "Contents/Linux-x86-64/VS3R.ofx").read_bytes() == b"two" and not (installed / "Contents/Info.plist").exists()
    assert not install_plugin.problems(folder) and len(list(folder.iterdir())) == 2
    (installed / "Contents/Linux-x86-64/VS3R.ofx").write_bytes(b"three")
    (installed / "Contents/more").write_text("x")
    assert install_plugin.problems(folder) == [
        "Contents/Linux-x86-64/VS3R.ofx is changed.",
        "Contents/more does not belong there.",
    ]
    (folder / install_plugin.RECEIPT).write_text("{")
    assert "Install the plug-in again" in install_plugin.problems(folder)[0]


def test_bundle_and_folder_may_be_given_from_where_one_is(small_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(small_bundle)
    assert run("install", ".", "--prefix", "../../plugins") == 0
    written = capsys.readouterr()
    assert written.out == f"{tmp_path / 'plugins' / small_bundle.name}\n" and f"OFX_PLUGIN_PATH={tmp_path / 'plugins'}\n" in written.err


def test_one_for_another_system_may_only_be_put_where_one_says(small_bundle, tmp_path, monkeypatch, capsys):
    (small_bundle / "Contents" / "Linux-x86-64").rename(small_bundle / "Contents" / "Elsewhere")
    monkeypatch.setattr(install_plugin, "plugin_folder", lambda _: tmp_path / "usual")
    assert run("install", small_bundle) == 1 and not (tmp_path / "usual").exists()
    assert "another system" in capsys.readouterr().err
    assert run("install", small_bundle, "--prefix", tmp_path / "plugins") == 0


def test_what_is_no_bundle_is_refused(tmp_path, capsys):
    assert run("install", tmp_path, "--prefix", tmp_path / "plugins") == 1
    assert "cmake" in capsys.readouterr().err and not (tmp_path / "plugins").exists()


def test_one_built_by_a_cautious_user_can_be_read_by_everybody(small_bundle, tmp_path):
    """sudo copies what a umask of 077 has made."""
    for path in (small_bundle, *small_bundle.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    installed = install_plugin.install(small_bundle, tmp_path / "plugins")
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (installed, *installed.rglob("*")))
    assert (installed / "Contents").stat().st_mode & 0o111 == 0o111


def test_the_old_one_stays_where_the_new_one_cannot_take_its_place(small_bundle, tmp_path, monkeypatch):
    folder = tmp_path / "plugins"
    installed = install_plugin.install(small_bundle, folder)
    (small_bundle / "Contents/Linux-x86-64/VS3R.ofx").write_bytes(b"two")
    rename = os.rename

    def unable(self, to):
        if self.name == "VS3R.ofx.bundle" and self.parent != folder:
            raise OSError("in use")
        rename(self, to)

    monkeypatch.setattr(install_plugin.Path, "rename", unable)
    with pytest.raises(OSError, match="in use"):
        install_plugin.install(small_bundle, folder)
    assert (installed / "Contents/Linux-x86-64/VS3R.ofx").read_bytes() == b"one"


def test_links_of_those_who_build_it_are_replaced_and_removed(small_bundle, tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    link = folder / "VS3R.ofx.bundle"
    link.symlink_to(small_bundle)
    assert run("uninstall", "--prefix", folder) == 0 and not os.path.lexists(link) and small_bundle.exists()
    link.symlink_to(tmp_path / "cleaned away")
    assert run("install", small_bundle, "--prefix", folder) == 0 and not link.is_symlink()
    assert not install_plugin.problems(folder)


def test_what_cannot_be_removed_is_said_to_be_there(small_bundle, tmp_path, monkeypatch, capsys):
    def in_use(path, *_, **__):
        raise PermissionError(f"{path} is in use")

    folder = tmp_path / "plugins"
    install_plugin.install(small_bundle, folder)
    monkeypatch.setattr(install_plugin.shutil, "rmtree", in_use)
    assert run("uninstall", "--prefix", folder) == 1 and "in use" in capsys.readouterr().err
    assert (folder / install_plugin.RECEIPT).exists()


@pytest.mark.parametrize(("platform", "fits"), [("linux", True), ("darwin", False), ("win32", False)])
def test_one_built_for_another_system_is_refused(small_bundle, platform, fits):
    if fits:
        return install_plugin.refuse_foreign(small_bundle, platform)
    with pytest.raises(ValueError, match="another system"):
        install_plugin.refuse_foreign(small_bundle, platform)


@pytest.mark.parametrize(
    ("platform", "all_users", "ends"),
    [
        ("linux", True, "/usr/OFX/Plugins"),
        ("darwin", True, "/Library/OFX/Plugins"),
        ("linux", False, ".local/share/OFX/Plugins"),
    ],
)
def test_the_usual_places(platform, all_users, ends):
    assert install_plugin.plugin_folder(all_users, platform).as_posix().endswith(ends)


def test_the_bundle_has_its_layout_also_from_generators_of_several_configurations(tmp_path):
    """As Xcode's and Visual Studio's are."""
    if not shutil.which("ninja") or not can_build():
        pytest.skip("ninja, cmake or a C++ compiler is missing")
    subprocess.run(["cmake", "-S", ROOT / "plugin", "-B", tmp_path, "-G", "Ninja Multi-Config"], check=True, capture_output=True)
    assert "VS3R.ofx.bundle/Contents/Linux-x86-64/VS3R.ofx" in (tmp_path / "CMakeFiles" / "impl-Release.ninja").read_text()
