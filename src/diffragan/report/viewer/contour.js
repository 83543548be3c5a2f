// A surface of one value through a grid of numbers, by surface nets (Gibson 1998): a vertex in every
// cell that the surface crosses, at the mean of the places where it crosses the cell's edges, and a
// quad across every crossed edge of the grid. 3Dmol's own isosurface puts vertices on grid points,
// so it would move by whole voxels.
"use strict";

const CONTOUR_EDGES = [
  [0, 1], [2, 3], [4, 5], [6, 7], [0, 2], [1, 3], [4, 6], [5, 7], [0, 4], [1, 5], [2, 6], [3, 7],
];

// grid: {values: Uint8Array, x fastest; table: what each of its 256 values stands for, rising;
// size: [x, y, z]; origin, step: Å}. near: {at: [x, y, z], radius} in Å, or null for everywhere.
function contour(grid, level, near) {
  const { values, table, size, origin, step } = grid;
  const [nx, ny, nz] = size, row = nx, slab = nx * ny;
  const cut = table.findIndex((value) => value > level);
  const vertices = [], faces = [];
  if (cut < 0) return { vertices, faces };
  const from = [0, 0, 0], to = [nx - 1, ny - 1, nz - 1];
  if (near) {
    for (let axis = 0; axis < 3; axis++) {
      const middle = (near.at[axis] - origin[axis]) / step, reach = near.radius / step;
      from[axis] = Math.max(from[axis], Math.floor(middle - reach));
      to[axis] = Math.min(to[axis], Math.ceil(middle + reach));
    }
  }
  const wide = Math.max(0, to[0] - from[0]), deep = wide * Math.max(0, to[1] - from[1]);
  const numbers = new Int32Array(deep * Math.max(0, to[2] - from[2])).fill(-1);
  const cornerAt = [0, 1, row, row + 1, slab, slab + 1, slab + row, slab + row + 1];
  const within = near ? (near.radius / step) ** 2 : Infinity;
  const height = new Float32Array(8);

  function quad(a, b, c, d, flip) {
    if (a < 0 || b < 0 || c < 0 || d < 0) return;
    if (flip) faces.push(a, c, b, a, d, c);
    else faces.push(a, b, c, a, c, d);
  }

  for (let z = from[2], cell = 0; z < to[2]; z++) {
    for (let y = from[1]; y < to[1]; y++) {
      for (let x = from[0]; x < to[0]; x++, cell++) {
        const here = x + y * row + z * slab;
        let inside = 0;
        for (let k = 0; k < 8; k++) if (values[here + cornerAt[k]] >= cut) inside |= 1 << k;
        if (inside === 0 || inside === 255) continue;
        if (near) {
          const dx = origin[0] + x * step - near.at[0], dy = origin[1] + y * step - near.at[1];
          const dz = origin[2] + z * step - near.at[2];
          if ((dx * dx + dy * dy + dz * dz) / (step * step) > within) continue;
        }
        for (let k = 0; k < 8; k++) height[k] = table[values[here + cornerAt[k]]];
        let px = 0, py = 0, pz = 0, count = 0;
        for (const [a, b] of CONTOUR_EDGES) {
          if (((inside >> a) & 1) === ((inside >> b) & 1)) continue;
          const part = (level - height[a]) / (height[b] - height[a]);
          px += (a & 1) + part * ((b & 1) - (a & 1));
          py += ((a >> 1) & 1) + part * (((b >> 1) & 1) - ((a >> 1) & 1));
          pz += (a >> 2) + part * ((b >> 2) - (a >> 2));
          count++;
        }
        const v = numbers[cell] = vertices.length;
        vertices.push({
          x: origin[0] + (x + px / count) * step,
          y: origin[1] + (y + py / count) * step,
          z: origin[2] + (z + pz / count) * step,
        });
        // Of the edges that end at this cell's first corner, so that each is met once.
        const corner = inside & 1, left = x > from[0], back = y > from[1], below = z > from[2];
        if (back && below && corner !== ((inside >> 1) & 1)) {
          quad(v, numbers[cell - wide], numbers[cell - wide - deep], numbers[cell - deep], !corner);
        }
        if (left && below && corner !== ((inside >> 2) & 1)) {
          quad(v, numbers[cell - deep], numbers[cell - deep - 1], numbers[cell - 1], !corner);
        }
        if (left && back && corner !== ((inside >> 4) & 1)) {
          quad(v, numbers[cell - 1], numbers[cell - 1 - wide], numbers[cell - wide], !corner);
        }
      }
    }
  }
  return { vertices, faces };
}
