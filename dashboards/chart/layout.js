// Where things lie, in CSS pixels. All charts and the heat map share their step axis.
export const GUTTER = 150; // left of the charts, for titles and readouts
export const AXIS = 56; // for the labels of the y axis
export const RIGHT = 14; // after the last step
export const MARGIN = 16; // on both sides of the charts (page.css has the same)
