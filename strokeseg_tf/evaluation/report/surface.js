// Closed surface of a mask, by naive surface nets (Gibson 1998): a vertex per cell that is neither
// all in nor all out, a square per pair of face neighbours that differ. Then Taubin's smoothing.
function surfaceOf(mask, shape, rounds) {
  const [first, last] = boxOf(mask, shape);
  const [height, width] = shape.slice(1);
  const inside = (z, y, x) =>
    z >= 0 && y >= 0 && x >= 0 && z < shape[0] && y < height && x < width &&
    mask[(z * height + y) * width + x];
  const across = width + 1, layer = across * (height + 1);
  const vertexOf = new Map(), points = [], triangles = [];
  const vertexAt = (z, y, x) => {  // of the cell whose last corner is the voxel z, y, x
    const key = z * layer + y * across + x;
    if (!vertexOf.has(key)) {
      vertexOf.set(key, points.length);
      points.push(centreOf(z, y, x));
    }
    return vertexOf.get(key);
  };
  const centreOf = (z, y, x) => {
    const corner = (i) => !!inside(z - 1 + (i >> 2), y - 1 + ((i >> 1) & 1), x - 1 + (i & 1));
    const sum = [0, 0, 0];
    let crossings = 0;
    for (let i = 0; i < 8; i++) {
      for (const bit of [1, 2, 4]) {
        if (i & bit || corner(i) === corner(i | bit)) continue;
        crossings++;
        [4, 2, 1].forEach((axis, at) => {
          sum[at] += axis === bit ? 0.5 : Number(Boolean(i & axis));
        });
      }
    }
    return [z, y, x].map((place, at) => place - 1 + sum[at] / crossings);
  };
  const square = (a, b, c, d, out) => {
    triangles.push(...(out ? [[a, b, c], [a, c, d]] : [[a, c, b], [a, d, c]]));
  };
  for (let z = first[0]; z <= last[0] + 1; z++) {
    for (let y = first[1]; y <= last[1] + 1; y++) {
      for (let x = first[2]; x <= last[2] + 1; x++) {
        const here = !!inside(z, y, x);
        if (here !== !!inside(z - 1, y, x)) {
          square(vertexAt(z, y, x), vertexAt(z, y, x + 1), vertexAt(z, y + 1, x + 1),
            vertexAt(z, y + 1, x), here);
        }
        if (here !== !!inside(z, y - 1, x)) {
          square(vertexAt(z, y, x), vertexAt(z + 1, y, x), vertexAt(z + 1, y, x + 1),
            vertexAt(z, y, x + 1), here);
        }
        if (here !== !!inside(z, y, x - 1)) {
          square(vertexAt(z, y, x), vertexAt(z, y + 1, x), vertexAt(z + 1, y + 1, x),
            vertexAt(z + 1, y, x), here);
        }
      }
    }
  }
  return {points: smoothed(points, triangles, rounds), triangles};
}

// First and last slice, row and column that hold a part of the mask.
function boxOf(mask, [, height, width]) {
  const first = [Infinity, Infinity, Infinity], last = [-1, -1, -1];
  for (let at = mask.indexOf(1); at >= 0; at = mask.indexOf(1, at + 1)) {
    const row = Math.floor(at / width);
    [Math.floor(row / height), row % height, at % width].forEach((place, axis) => {
      first[axis] = Math.min(first[axis], place);
      last[axis] = Math.max(last[axis], place);
    });
  }
  return [first, last];
}

// Taubin (1995): a step in and a step out, so that the volume stays.
function smoothed(points, triangles, rounds) {
  const neighbours = points.map(() => new Set());
  for (const [a, b, c] of triangles) {
    neighbours[a].add(b).add(c);
    neighbours[b].add(a).add(c);
    neighbours[c].add(a).add(b);
  }
  for (let step = 0; step < 2 * rounds; step++) {
    const share = step % 2 ? -0.53 : 0.5;
    points = points.map((point, at) => {
      const mean = [0, 0, 0];
      for (const other of neighbours[at]) points[other].forEach((value, k) => { mean[k] += value; });
      return point.map((value, k) => value + share * (mean[k] / neighbours[at].size - value));
    });
  }
  return points;
}

// A Plotly trace in mm towards right, anterior and superior, so that nothing is mirrored.
function meshOf(mask, shape, spacing, directions, rounds, look) {
  const {points, triangles} = surfaceOf(mask, shape, rounds);
  const world = ["RL", "AP", "SI"].map((ends) => {
    const axis = [0, 1, 2].find((at) => ends.includes(directions[at]));
    const step = spacing[axis] * (ends[0] === directions[axis] ? 1 : -1);
    return points.map((point) => (point[axis] + 0.5) * step);
  });
  const [i, j, k] = [0, 1, 2].map((at) => triangles.map((corners) => corners[at]));
  return {type: "mesh3d", x: world[0], y: world[1], z: world[2], i, j, k, ...look};
}
