# SPDX-License-Identifier: Apache-2.0
"""DaVinci Resolve as its scripts see it: one project, one timeline, a media pool. As there, every name exists: unknown ones are None.

`damage` names what this Resolve does wrong; `writes` records every call that changes anything.
"""

import os
import unicodedata


class Thing:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class Media(Thing):
    def __init__(self, path, frames=1000, fps="24", **properties):
        self.properties = {"File Path": path, "Frames": str(frames), "FPS": fps, **properties}
        self.third_party = {}

    def GetClipProperty(self, name):
        return self.properties.get(name, "")

    def SetThirdPartyMetadata(self, key, value):
        self.third_party[key] = value
        return True


class Item(Thing):
    """A clip of the timeline at 100 %: `left` frames into its media, `duration` long, in timeline frames. With takes it is the selected
    one's media and frames."""

    def __init__(self, host, media, left, duration, name="shot", source=None):
        self.host, self.media, self.left, self.duration, self.name, self.start = host, media, left, duration, name, 86400
        self.source = source
        self.takes, self.selected = [], 0

    def GetName(self):
        return self.name

    def _take(self):
        return self.takes[self.selected - 1] if self.selected else {"startFrame": self.left, "mediaPoolItem": self.media}

    def GetMediaPoolItem(self):
        return self._take()["mediaPoolItem"]

    def GetTrackTypeAndIndex(self):
        return ["video", 1]

    def GetStart(self):
        return self.start

    def GetDuration(self):
        return self.duration + (5 if "take changes the length" in self.host.damage and self.selected > 1 else 0)

    def GetLeftOffset(self):
        return self._take()["startFrame"]

    def GetSourceStartFrame(self):
        return self.source[0] if self.source else self.GetLeftOffset()

    def GetSourceEndFrame(self):
        return self.source[1] if self.source else self.GetLeftOffset() + self.duration

    def AddTake(self, media, start, end):
        self.host.writes.append(("AddTake", os.path.basename(media.properties["File Path"]), start, end))
        if "refuses takes" in self.host.damage:
            return False
        if not self.takes:
            self.takes = [{"startFrame": self.left, "endFrame": self.left + self.duration - 1, "mediaPoolItem": self.media}]
            self.selected = 1
        if "drops takes" not in self.host.damage:
            self.takes.append(
                {"startFrame": start + (1 if "shifts takes" in self.host.damage else 0), "endFrame": end, "mediaPoolItem": media}
            )
        return True

    def GetTakesCount(self):
        return len(self.takes)

    def GetTakeByIndex(self, index):
        return dict(self.takes[index - 1]) if 0 < index <= len(self.takes) else {}

    def GetSelectedTakeIndex(self):
        return self.selected

    def SelectTakeByIndex(self, index):
        self.host.writes.append(("SelectTakeByIndex", index))
        if "keeps its take" not in self.host.damage:
            self.selected = index
        return True


class Folder(Thing):
    def __init__(self, name):
        self.name, self.folders, self.clips = name, [], []

    def GetName(self):
        return self.name

    def GetSubFolderList(self):
        return list(self.folders)


class Resolve(Thing):
    """Everything between the application and its timeline, in one object."""

    def __init__(self, rate="24", version="21.1.0"):
        self.damage, self.writes, self.items, self.selection = set(), [], [], None
        self.rate, self.version = rate, version
        self.root = Folder("Master")
        self.dailies = Folder("Dailies")
        self.root.folders.append(self.dailies)
        self.opened = self.dailies

    def add(self, path, left, duration, frames=1000, fps="24", **more):
        item = Item(self, Media(path, frames, fps), left, duration, **more)
        self.items.append(item)
        return item

    def _self(self, *_):
        return self

    GetProjectManager = GetCurrentProject = GetMediaPool = _self

    def GetCurrentTimeline(self):
        return self if self.items else None

    def GetProductName(self):
        return "DaVinci Resolve Studio"

    def GetVersionString(self):
        return self.version

    def GetSetting(self, name):
        return self.rate if name == "timelineFrameRate" else ""

    def GetSelectedClips(self):
        return self.items if self.selection is None else self.selection

    def GetCurrentVideoItem(self):
        return self.items[0]

    def GetCurrentFolder(self):
        return self.opened

    def GetRootFolder(self):
        return self.root

    def SetCurrentFolder(self, folder):
        self.opened = folder
        return True

    def AddSubFolder(self, parent, name):
        self.writes.append(("AddSubFolder", name))
        parent.folders.append(Folder(name))
        return parent.folders[-1]

    def ImportMedia(self, paths):
        self.writes.append(("ImportMedia", self.opened.name))
        if "imports nothing" in self.damage:
            return []
        spelled = "NFD" if "spells as macOS" in self.damage else "NFC"
        imported = [Media(unicodedata.normalize(spelled, path)) for path in paths]
        self.opened.clips += imported
        return imported
