// The page's volumes: unpacked when they are asked for, subtracted from each other, cut into slices.
"use strict";
globalThis.scansynthReport = (() => {
  const HEADER = 352; // bytes of a NIfTI file before its voxels, as volumes.py writes it
  const CLASSES = ["source", "synthesis", "truth", "error", "uncertainty"];
  const NAMES = { source: "Source", synthesis: "Synthesis", truth: "Truth", error: "Error", uncertainty: "Uncertainty" };

  // How radiologists see a plane: the patient's right on the left, sagittal planes from the left with the nose on the
  // left; the first axis from left to right and the second from top to bottom both run from their high end down (RAS+).
  const PLANES = {
    axial: { axis: 2, across: 0, down: 1, sides: ["R", "L"], ends: ["A", "P"] },
    coronal: { axis: 1, across: 0, down: 2, sides: ["R", "L"], ends: ["S", "I"] },
    sagittal: { axis: 0, across: 1, down: 2, sides: ["A", "P"], ends: ["S", "I"] },
  };

  /** A NIfTI file (bytes) out of the page. */
  async function unpack(identifier, shape) {
    const letters = atob(document.getElementById(identifier).textContent);
    const packed = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const file = new Uint8Array(await new Response(stream).arrayBuffer());
    restore(file.subarray(HEADER), shape);
    return file;
  }

  /** Undo `residuals` of volumes.py: add to each voxel what is predicted from the three before it in its slice. */
  function restore(voxels, [nx, ny, nz]) {
    let i = 0;
    for (let z = 0; z < nz; z++) {
      for (let y = 0; y < ny; y++) {
        for (let x = 0; x < nx; x++, i++) {
          const a = x ? voxels[i - 1] : 0;
          const b = y ? voxels[i - nx] : 0;
          const c = x && y ? voxels[i - nx - 1] : 0;
          voxels[i] += Math.min(Math.max(a + b - c, Math.min(a, b)), Math.max(a, b));
        }
      }
    }
  }

  /** The file of |synthesis − truth|: both are on one scale, so the difference of their bytes is on it too. */
  function difference(synthesis, truth) {
    const file = truth.slice();
    for (let i = HEADER; i < file.length; i++) file[i] = Math.abs(synthesis[i] - truth[i]);
    return file;
  }

  /** One subject and target with all its images; each image's NIfTI file is made once, when it is first wanted. */
  class Case {
    constructor(description) {
      Object.assign(this, description);
      const files = new Map();
      const once = (key, make) => () => {
        if (!files.has(key)) files.set(key, make());
        return files.get(key);
      };
      const stored = description.images.map((image) => ({
        ...image,
        file: once(image.volume, () => unpack(image.volume, description.shape)),
      }));
      const truth = stored.find((image) => image.kind === "truth");
      const errors = stored
        .filter((image) => truth && image.kind === "synthesis")
        .map((image) => ({
          kind: "error",
          name: image.name,
          step: image.step,
          white: description.error_white,
          file: once(`error of ${image.volume}`, async () => difference(await image.file(), await truth.file())),
        }));
      this.images = [...stored, ...errors].sort((a, b) => CLASSES.indexOf(a.kind) - CLASSES.indexOf(b.kind));
      this.images.forEach((image, place) => {
        image.key = String(place);
        image.grey = ["source", "synthesis", "truth"].includes(image.kind);
        image.label = `${NAMES[image.kind]}: ${image.name}`;
      });
      this.reference = truth ?? stored.find((image) => image.kind === "synthesis"); // whose window all follow
    }

    of(kind, name) {
      return this.images.filter((image) => image.kind === kind && (name === undefined || image.name === name));
    }

    voxelAt(file, voxel) {
      const [nx, ny] = this.shape;
      return file[HEADER + voxel[0] + nx * (voxel[1] + ny * voxel[2])];
    }

    /** The bytes of a plane, as seen: rows from the top, in each row from the left. */
    slice(file, plane, index) {
      const { axis, across, down } = PLANES[plane];
      const strides = [1, this.shape[0], this.shape[0] * this.shape[1]];
      const [width, height] = [this.shape[across], this.shape[down]];
      const pixels = new Uint8Array(width * height);
      for (let row = 0; row < height; row++) {
        const start = HEADER + index * strides[axis] + (height - 1 - row) * strides[down];
        for (let column = 0; column < width; column++) {
          pixels[row * width + column] = file[start + (width - 1 - column) * strides[across]];
        }
      }
      return { pixels, width, height };
    }
  }

  return { CLASSES, NAMES, PLANES, Case };
})();
