// The curves. The options of the library are many; `parts/chart.js` is their only user.
declare const uPlot: any;
export default uPlot;
