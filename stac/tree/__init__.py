"""The documents between a collection and its items: catalogs by year, month, day and page, none with many children.

Every document above an item keeps a sum of what lies below it (`stac.tree.contents`), and repeats it in the link that
leads to it. Adding or removing one item therefore touches the documents on the way from the item to the root and no
other, however many items there are.
"""
