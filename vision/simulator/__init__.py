"""The procedural bin camera: single items on a chute floor, with a known truth.

shapes      masks, height fields, prints: what items are made from
containers, sheets, things      one function for each kind of item; `catalogue` groups them
shading     light on a material: diffuse, specular, metal, glass
scene       floor, clutter, shadow, lens, sensor: one image with its truth
world       a chute in time: items fall, lie, are cleared; stands in for camera and lid in demos
street      a chute on a bad day, for measuring a trigger
dataset     images on disk with a splits.csv
"""
