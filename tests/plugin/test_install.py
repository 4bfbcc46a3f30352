# SPDX-License-Identifier: Apache-2.0
"""Installing the bundle: whole, verifiable, replaceable, and nobody else's plug-in is touched."""

import pytest

from installers import install_plugin
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


def test_what_is_no_bundle_is_refused(tmp_path, capsys):
    assert run("install", tmp_path, "--prefix", tmp_path / "plugins") == 1
    assert "cmake" in capsys.readouterr().err and not (tmp_path / "plugins").exists()


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
