"""The feature cache: correct features, each image encoded once, resumable and extendable."""

import pickle

import numpy as np
import pytest

from core.errors import DataError
from datamodules.batches.feature_cache import FeatureCache, build_feature_cache, cache_folder


class Tower:
    """Encoder that counts its images and fails after a number of batches."""

    def __init__(self, fail_after=None):
        self.seen, self.fail_after = [], fail_after

    def __call__(self, images):
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise RuntimeError("interrupted")
        self.seen += images
        return np.stack([features_of(image) for image in images])


def features_of(image):
    return np.full((2, 3), float(sum(image)), dtype=np.float32)


IMAGES = [f"image {i}".encode() for i in range(10)]


def build(tmp_path, images, tower, **kwargs):
    return build_feature_cache(tmp_path, "tower", images, tower, batch_size=4, **kwargs)


def check(cache, images):
    assert len(cache) == len(set(images))
    for image in images:
        assert np.array_equal(cache.get(image), features_of(image))


def test_build_and_get(tmp_path):
    tower, progress = Tower(), []
    cache = build(tmp_path, IMAGES + IMAGES[:3], tower, on_progress=progress.append)
    assert tower.seen == IMAGES
    assert progress == [4, 4, 2]
    check(cache, IMAGES)
    assert IMAGES[0] in cache
    assert b"other" not in cache
    assert (cache.num_image_tokens, cache.width) == (2, 3)
    assert np.load(cache_folder(tmp_path, "tower") / "features.npy").dtype == np.float32
    check(pickle.loads(pickle.dumps(cache)), IMAGES)


def test_errors_name_the_missing_image(tmp_path):
    cache = build(tmp_path, IMAGES, Tower())
    with pytest.raises(DataError, match=r"image [0-9a-f]{16} is not in feature cache"):
        cache.get(b"other")


def test_an_interrupted_build_resumes(tmp_path):
    with pytest.raises(RuntimeError, match="interrupted"):
        build(tmp_path, IMAGES, Tower(fail_after=8))
    with pytest.raises(DataError, match="does not exist"):
        FeatureCache.open(cache_folder(tmp_path, "tower"))
    tower = Tower()
    check(build(tmp_path, IMAGES, tower), IMAGES)
    assert tower.seen == IMAGES[8:]


def test_extending_a_cache_encodes_only_new_images(tmp_path):
    build(tmp_path, IMAGES[:6], Tower())
    tower = Tower()
    check(build(tmp_path, IMAGES, tower), IMAGES)
    assert tower.seen == IMAGES[6:]
    tower = Tower()
    check(build(tmp_path, IMAGES[:2], tower), IMAGES)
    assert tower.seen == []


def test_crash_between_the_two_renames_is_harmless(tmp_path):
    folder = cache_folder(tmp_path, "tower")
    build(tmp_path, IMAGES[:6], Tower())
    old_keys = (folder / "keys.npy").read_bytes()
    build(tmp_path, IMAGES, Tower())
    (folder / "keys.npy").write_bytes(old_keys)
    check(FeatureCache.open(folder), IMAGES[:6])
    check(build(tmp_path, IMAGES, Tower()), IMAGES)


def test_a_finished_build_leaves_no_temporary_files(tmp_path):
    build(tmp_path, IMAGES, Tower())
    files = sorted(p.name for p in cache_folder(tmp_path, "tower").rglob("*") if p.is_file())
    assert files == ["features.npy", "keys.npy"]


def test_invalid_caches_are_rejected(tmp_path):
    with pytest.raises(DataError, match="no images"):
        build(tmp_path, [], Tower())
    with pytest.raises(DataError, match=r"features of shape \(4, 3\) for 4 images"):
        build(tmp_path, IMAGES, lambda images: np.zeros((len(images), 3)))
    build(tmp_path, IMAGES[:4], Tower())
    with pytest.raises(DataError, match="features of shapes"):
        build(tmp_path, IMAGES, lambda images: np.zeros((len(images), 5, 3)))
    folder = cache_folder(tmp_path, "tower")
    (folder / "keys.npy").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"keys\.npy is damaged"):
        FeatureCache.open(folder)


def test_towers_do_not_share_a_folder(tmp_path):
    assert cache_folder(tmp_path, "a") != cache_folder(tmp_path, "b")
