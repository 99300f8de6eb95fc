// The square frame over the query. The model sees squares: the central one of an image,
// or the one within the frame. It is kept in pixels of the image, and shown in percent
// of the stage, so that a change of the window does not move it.

const SMALLEST = 0.06; // of the shorter side
const STEP = 0.03;

export class Crop {
  // `changed(box)` is called when the frame has come to rest; null: no crop.
  constructor(stage, frame, changed) {
    Object.assign(this, { stage, frame, changed, width: 1, height: 1, waiting: 0 });
    stage.addEventListener("pointerdown", (event) => this.grasp(event));
    frame.addEventListener("keydown", (event) => this.type(event));
    frame.addEventListener("dragstart", (event) => event.preventDefault());
  }

  // Begin anew with an image of this size, and perhaps a box of it.
  reset(width, height, box = null) {
    Object.assign(this, { width, height });
    this.stage.style.setProperty("--ratio", width / height);
    const side = Math.min(width, height);
    this.set((width - side) / 2, (height - side) / 2, side);
    if (box) this.set(box[0] * width, box[1] * height, (box[2] - box[0]) * width);
  }

  // Fractions of the image: left, top, right, bottom; null for the central square.
  get box() {
    const { x, y, side, width, height } = this;
    const whole = Math.min(width, height);
    if (side > whole - 0.5) {
      const middle = Math.abs(x - (width - side) / 2) + Math.abs(y - (height - side) / 2);
      if (middle < 0.5) return null;
    }
    const box = [x / width, y / height, (x + side) / width, (y + side) / height];
    return box.map((value) => Math.min(1, Math.max(0, value)));
  }

  set(x, y, side) {
    const whole = Math.min(this.width, this.height);
    this.side = Math.min(whole, Math.max(SMALLEST * whole, side));
    this.x = Math.min(this.width - this.side, Math.max(0, x));
    this.y = Math.min(this.height - this.side, Math.max(0, y));
    const percent = (value, of) => `${(100 * value) / of}%`;
    const { style } = this.frame;
    style.left = percent(this.x, this.width);
    style.top = percent(this.y, this.height);
    style.width = percent(this.side, this.width);
    style.height = percent(this.side, this.height);
  }

  // A pointer, in pixels of the image.
  place(event) {
    const area = this.stage.getBoundingClientRect();
    return [
      ((event.clientX - area.left) / area.width) * this.width,
      ((event.clientY - area.top) / area.height) * this.height,
    ];
  }

  grasp(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.frame.focus({ preventScroll: true });
    const [startX, startY] = this.place(event);
    const { x, y, side } = this;
    const corner = event.target.dataset.corner;
    const inside = event.target === this.frame;
    // Outside of the frame a new one is drawn, from the corner where it began.
    const fixed = corner
      ? [corner.includes("w") ? x + side : x, corner.includes("n") ? y + side : y]
      : [startX, startY];
    const move = (moved) => {
      const [nowX, nowY] = this.place(moved);
      if (inside) this.set(x + nowX - startX, y + nowY - startY, side);
      else this.span(fixed, nowX, nowY);
    };
    const end = () => {
      this.stage.removeEventListener("pointermove", move);
      this.rest(0);
    };
    this.stage.setPointerCapture(event.pointerId);
    this.stage.addEventListener("pointermove", move);
    this.stage.addEventListener("lostpointercapture", end, { once: true });
  }

  // A square from a fixed corner towards a pointer, as far as the image reaches.
  span([fixedX, fixedY], toX, toY) {
    const right = toX >= fixedX;
    const down = toY >= fixedY;
    const room = Math.min(
      right ? this.width - fixedX : fixedX,
      down ? this.height - fixedY : fixedY,
    );
    const wanted = Math.max(Math.abs(toX - fixedX), Math.abs(toY - fixedY));
    const smallest = SMALLEST * Math.min(this.width, this.height);
    const side = Math.max(smallest, Math.min(room, wanted));
    this.set(right ? fixedX : fixedX - side, down ? fixedY : fixedY - side, side);
  }

  type(event) {
    const step = STEP * Math.min(this.width, this.height);
    const { x, y, side } = this;
    const grow = (by) => [x - by / 2, y - by / 2, side + by];
    const moved = {
      ArrowLeft: [x - step, y, side],
      ArrowRight: [x + step, y, side],
      ArrowUp: [x, y - step, side],
      ArrowDown: [x, y + step, side],
      "+": grow(2 * step),
      "=": grow(2 * step),
      "-": grow(-2 * step),
    }[event.key];
    if (!moved || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.set(...moved);
    this.rest(400);
  }

  // Tell of the new frame, once it has not moved for so many milliseconds.
  rest(milliseconds) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.changed(this.box), milliseconds);
  }
}
