package main

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

func ginRoute(c *gin.Context) {
	if c.FullPath() == "" {
		c.Status(http.StatusNotFound)
	}
	answer(c.Writer, c.Request.URL.Path, c.FullPath())
}

func ginTenant(c *gin.Context) {
	c.Request = tenantOf(c.Request)
	c.Next()
}

func byGin() http.Handler {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.Use(gin.Recovery(), func(c *gin.Context) {
		if denied(c.Writer, c.Request) {
			c.Abort()
		}
	})
	e.GET("/", ginRoute)
	e.GET("/users", ginRoute)
	e.GET("/users/:id", ginRoute)
	v1 := e.Group("/v1", ginTenant)
	v1.Group("/shops/:shop", ginTenant).GET("/items/:item", ginRoute)
	e.GET("/files/*path", ginRoute)
	e.GET("/tenant/:id", ginTenant, ginRoute)
	e.GET("/large/:id", ginRoute)
	e.GET("/slow/:id", ginRoute)
	e.GET("/alias/:id", func(c *gin.Context) {
		c.Request.URL.Path = "/users/" + c.Param("id")
		e.HandleContext(c)
		c.Abort()
	})
	e.NoRoute(ginRoute)
	return e
}

// ginBelow is for below a router of another kind.
func ginBelow() http.Handler {
	e := gin.New()
	e.GET("/gin/items/:id", ginRoute)
	return e
}
