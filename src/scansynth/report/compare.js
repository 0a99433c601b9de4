// Two images of one plane in one picture: a slider between them, or a checkerboard of both.
"use strict";
(() => {
  const { PLANES } = scansynthReport;
  const TEXT = "#e9ecef";
  const LINE = "rgb(255 208 80 / .9)";
  const BOTTOM = 24; // pixels of the banner's line

  /** A plane as a small canvas, one pixel a voxel, grey from black to white over the image's limits. */
  function painted(slice, step, limits) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [slice.width, slice.height];
    const context = canvas.getContext("2d");
    const image = context.createImageData(slice.width, slice.height);
    const [low, high] = limits;
    for (let i = 0; i < slice.pixels.length; i++) {
      const grey = (255 * (slice.pixels[i] * step - low)) / (high - low);
      image.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  class CompareView {
    constructor(canvas, banner) {
      this.canvas = canvas;
      this.banner = banner;
      this.frame = null;
    }

    /**
     * @param {object} view grid, plane, voxel, a and b ({slice, step, limits, label}), mode, share (0 to 1), tile
     *   (voxels), smooth and crosshair.
     */
    draw(view) {
      const { canvas } = this;
      const ratio = devicePixelRatio || 1;
      const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
      [canvas.width, canvas.height] = [Math.round(wide * ratio), Math.round(high * ratio)];
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.fillStyle = "#000";
      context.fillRect(0, 0, wide, high);
      const { across, down, sides, ends } = PLANES[view.plane];
      const { width, height } = view.a.slice;
      const size = [width * view.grid.spacing[across], height * view.grid.spacing[down]];
      const scale = Math.min((wide - 60) / size[0], (high - BOTTOM - 34) / size[1]);
      const box = { width: size[0] * scale, height: size[1] * scale };
      box.left = (wide - box.width) / 2;
      box.top = (high - BOTTOM - box.height) / 2;
      this.frame = box;

      context.imageSmoothingEnabled = view.smooth;
      const put = (image) =>
        context.drawImage(painted(image.slice, image.step, image.limits), box.left, box.top, box.width, box.height);
      put(view.a);
      context.save();
      context.beginPath();
      const split = box.left + view.share * box.width;
      if (view.mode === "slider") {
        context.rect(split, box.top, box.left + box.width - split, box.height);
      } else {
        const side = [(view.tile * box.width) / width, (view.tile * box.height) / height];
        for (let row = 0; row * view.tile < height; row++) {
          for (let column = (row + 1) % 2; column * view.tile < width; column += 2) {
            context.rect(box.left + column * side[0], box.top + row * side[1], side[0], side[1]);
          }
        }
      }
      context.clip();
      // Fields at the edge may reach beyond the slice; only the picture itself is drawn there.
      put(view.b);
      context.restore();

      context.strokeStyle = context.fillStyle = LINE;
      context.lineWidth = 1;
      if (view.crosshair) {
        const x = box.left + ((width - 0.5 - view.voxel[across]) * box.width) / width;
        const y = box.top + ((height - 0.5 - view.voxel[down]) * box.height) / height;
        const gap = 8;
        for (const [from, to] of [[box.left, x - gap], [x + gap, box.left + box.width]]) line(context, from, y, to, y);
        for (const [from, to] of [[box.top, y - gap], [y + gap, box.top + box.height]]) line(context, x, from, x, to);
      }
      if (view.mode === "slider") {
        context.strokeStyle = context.fillStyle = TEXT;
        context.lineWidth = 2;
        line(context, split, box.top - 6, split, box.top + box.height + 6);
        context.beginPath();
        context.arc(split, box.top + box.height / 2, 7, 0, 2 * Math.PI);
        context.fill();
      }
      this.write(context, wide, high, view, sides, ends, box);
    }

    write(context, wide, high, view, sides, ends, box) {
      const text = (what, x, y, align, colour = TEXT, font = "13px system-ui, sans-serif") => {
        [context.textAlign, context.fillStyle, context.font] = [align, colour, font];
        context.textBaseline = "middle";
        context.fillText(what, x, y, wide / 2 - 20);
      };
      const middle = box.top + box.height / 2;
      text(sides[0], box.left - 12, middle, "right");
      text(sides[1], box.left + box.width + 12, middle, "left");
      text(ends[0], wide / 2, Math.max(9, box.top - 10), "center");
      if (view.mode === "slider") {
        text(view.a.label, 10, 14, "left");
        text(view.b.label, wide - 10, 14, "right");
      } else {
        text(`first field: ${view.a.label}`, 10, 14, "left");
        text(`second field: ${view.b.label}`, wide - 10, 14, "right");
      }
      context.textAlign = "center";
      context.fillStyle = "#ffb000";
      context.font = "bold 13px system-ui, sans-serif";
      context.fillText(this.banner, wide / 2, high - BOTTOM / 2, wide - 20);
    }

    /** Where a pointer is in the picture: shares from left and top, 0 to 1. */
    shareAt(event) {
      const { left, top } = this.canvas.getBoundingClientRect();
      const within = (value) => Math.min(1, Math.max(0, value));
      const border = this.canvas.clientLeft;
      return [
        within((event.clientX - left - border - this.frame.left) / this.frame.width),
        within((event.clientY - top - border - this.frame.top) / this.frame.height),
      ];
    }
  }

  function line(context, x0, y0, x1, y1) {
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
  }

  scansynthReport.CompareView = CompareView;
})();
