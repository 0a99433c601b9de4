// One picture of the viewer: a NiiVue instance with an image and, over a synthesis, its error or uncertainty.
"use strict";
(() => {
  const TYPES = { axial: 0, coronal: 1, sagittal: 2, all: 3, render: 4 }; // NiiVue's slice types
  const DRAG = { none: 0, pan: 3, crosshair: 8 }; // NiiVue's drag modes

  const OPTIONS = {
    logLevel: "error",
    loadingText: "",
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    backColor: [0, 0, 0, 1],
    fontColor: [0.91, 0.92, 0.94, 1],
    crosshairColor: [1, 0.82, 0.31, 0.9],
    crosshairWidthUnit: "mm",
    show3Dcrosshair: true,
    dragAndDropEnabled: false,
    multiplanarLayout: 2, // a grid of two by two, with the rendering in the fourth field
    multiplanarShowRender: 1,
    mouseEventConfig: {
      leftButton: { primary: DRAG.crosshair, withShift: DRAG.pan, withCtrl: DRAG.crosshair },
      rightButton: DRAG.none,
      centerButton: DRAG.pan,
    },
  };

  function hasWebGL() {
    return document.createElement("canvas").getContext("webgl2") !== null;
  }

  class Panel {
    static async open(canvas, colours) {
      const panel = new Panel();
      panel.canvas = canvas;
      panel.volumes = new Map();
      panel.turn = 0;
      panel.nv = new niivue.Niivue(OPTIONS);
      await panel.nv.attachToCanvas(canvas, true);
      for (const [name, colour] of Object.entries(colours)) {
        const channel = (place) => colour.map((rgb) => rgb[place]);
        const places = colour.map((_, i) => Math.round((255 * i) / (colour.length - 1)));
        const map = { R: channel(0), G: channel(1), B: channel(2), I: places };
        panel.nv.addColormap(name, { ...map, A: places.map(() => 255) });
        // Over an image, what is small lets the image through.
        panel.nv.addColormap(`${name} over`, { ...map, A: places.map((place) => Math.min(255, 3 * place)) });
      }
      return panel;
    }

    /** Volumes of another subject are not kept. */
    forget() {
      this.volumes.clear();
    }

    /**
     * Show layers, the lowest first: {image, limits, colours, opacity}. Of calls that overtake each other the last
     * one stays.
     */
    async show(layers) {
      const turn = ++this.turn;
      const volumes = [];
      for (const { image, limits, colours, opacity } of layers) {
        const key = `${image.key} ${colours}`;
        if (!this.volumes.has(key)) {
          const file = await image.file();
          const options = { url: "volume.nii", name: "volume.nii", buffer: file.slice().buffer, colormap: colours };
          this.volumes.set(key, await niivue.NVImage.loadFromUrl({ ...options, cal_min: limits[0], cal_max: limits[1] }));
        }
        if (turn !== this.turn) return false;
        const volume = this.volumes.get(key);
        [volume.cal_min, volume.cal_max, volume.opacity] = [limits[0], limits[1], opacity];
        volumes.push(volume);
      }
      const { nv } = this;
      nv.volumes = volumes;
      nv.setVolume(volumes[0], 0); // also takes up the other layers, and draws
      return true;
    }

    /** Grid position [x, y, z] of the crosshair, and back. */
    get voxel() {
      return Array.from(this.nv.frac2vox(this.nv.scene.crosshairPos), Math.round);
    }

    place(voxel) {
      this.nv.scene.crosshairPos = this.nv.vox2frac(voxel);
      this.nv.drawScene();
    }

    /** Take over what was moved in another picture: pan, zoom and the direction of the rendering. */
    follow(other) {
      const [own, its] = [this.nv.scene, other.nv.scene];
      own.pan2Dxyzmm = its.pan2Dxyzmm.slice();
      [own.renderAzimuth, own.renderElevation] = [its.renderAzimuth, its.renderElevation];
      own.volScaleMultiplier = its.volScaleMultiplier;
      this.nv.drawScene();
    }

    turnBy(azimuth, elevation) {
      const { nv } = this;
      nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + azimuth, nv.scene.renderElevation + elevation);
    }

    /** Zoom so that the crosshair stays where it is. */
    zoomTo(zoom) {
      const { nv } = this;
      const [x, y, z, before] = nv.scene.pan2Dxyzmm;
      const mm = nv.frac2mm(nv.scene.crosshairPos);
      const pan = zoom === 1 ? [0, 0, 0] : [x, y, z].map((value, i) => value + (before - zoom) * mm[i]);
      nv.scene.pan2Dxyzmm[3] = zoom;
      this.thin(nv.opts.crosshairWidth > 0);
      nv.setPan2Dxyzmm([...pan, zoom]);
      nv.setScale(zoom);
    }

    /** A crosshair that covers no more when it is zoomed in. */
    thin(crosshair) {
      this.nv.opts.crosshairWidth = crosshair ? 0.5 / this.nv.scene.pan2Dxyzmm[3] : 0; // mm
    }

    options({ plane, smooth, crosshair }) {
      const { nv } = this;
      nv.opts.isNearestInterpolation = !smooth;
      this.thin(crosshair);
      nv.opts.show3Dcrosshair = crosshair;
      nv.setSliceType(TYPES[plane]);
      nv.setInterpolation(!smooth);
    }
  }

  Object.assign(scansynthReport, { hasWebGL, Panel });
})();
